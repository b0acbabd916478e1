"""Long-form corpora: built from HD-VILA-100M's metadata or from subtitles, cut into clips, and counted.

Nothing in this folder is copied into a checkpoint. Its modules are imported by name; `building` is where a build
begins, `cutting` where a video becomes clips, and `corpus_command` is the command line.
"""
