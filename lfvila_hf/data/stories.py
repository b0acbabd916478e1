# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Old place of `lfvila_hf.shapetales`, importable for one more version."""

from __future__ import annotations

import warnings

from ..shapetales import ShapeTales, build_vocabulary, load_shapetales, make_shapetales

warnings.warn("lfvila_hf.data.stories has moved to lfvila_hf.shapetales", DeprecationWarning, stacklevel=2)

__all__ = ["ShapeTales", "build_vocabulary", "load_shapetales", "make_shapetales"]
