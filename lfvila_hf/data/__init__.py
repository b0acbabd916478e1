"""Data for LF-VILA: reading annotations, decoding, collating, and making the ShapeTales benchmark.

Nothing in this folder is copied into a checkpoint. Its modules are imported by name, so that importing one does not
load the dependencies of the others.
"""
