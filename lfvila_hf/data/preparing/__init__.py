"""Public annotation files in their original layouts into the released ones: `lfvila-hf prepare`."""
