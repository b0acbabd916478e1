"""Opt-in parts of reading a video, imported when asked for: isolation in a child process, torchcodec.

They do not travel with a checkpoint.
"""
