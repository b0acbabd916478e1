"""Conversion of public annotation files into the released format: `lfvila-hf prepare`."""
