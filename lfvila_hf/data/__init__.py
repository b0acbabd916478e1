"""Data for LF-VILA: annotations, data sets, collators, streams, and checks of videos.

Nothing in this folder is copied into a checkpoint. Its modules are imported by name, so that importing one does not
load the dependencies of the others.
"""
