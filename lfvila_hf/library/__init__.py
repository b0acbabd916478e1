"""Former name of `lfvila_hf.search`, kept for one version: import from there."""

from __future__ import annotations

import warnings
from typing import Any

warnings.warn("lfvila_hf.library has moved to lfvila_hf.search", DeprecationWarning, stacklevel=2)

__all__ = ["Hit", "VideoLibrary"]


def __getattr__(name: str) -> Any:
    """Give out the names of `lfvila_hf.search`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import lfvila_hf.search

    return getattr(lfvila_hf.search, name)
