"""Looking at what a model found: the index over a library of videos, the search, the page, and plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lfvila_hf.library.video_library import Hit, VideoLibrary

__all__ = ["Hit", "VideoLibrary"]


def __getattr__(name: str) -> Any:
    """Import the library when it is first asked for: plots alone need none of it."""
    if name in __all__:
        from lfvila_hf.library import video_library

        return getattr(video_library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
