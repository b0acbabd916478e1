"""Search of videos by a story: encoders, an index, moments, commands, the page, and plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lfvila_hf.search.encoders import Clip, StoryEncoder, load_encoder
    from lfvila_hf.search.ranking import Hit
    from lfvila_hf.search.segments import SegmentRule
    from lfvila_hf.search.video_library import VideoLibrary

__all__ = ["Clip", "Hit", "SegmentRule", "StoryEncoder", "VideoLibrary", "load_encoder"]
PLACES = {"Hit": "ranking", "SegmentRule": "segments", "VideoLibrary": "video_library"}


def __getattr__(name: str) -> Any:
    """Import a part when it is first asked for: plots alone need none of it."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(f"lfvila_hf.search.{PLACES.get(name, 'encoders')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
