"""Long-form corpora: built from HD-VILA-100M's metadata or from subtitles, cut into clips, and counted.

A build begins in `building`, cutting in `cutting_jobs`; `corpus_command` is the command line.
"""
