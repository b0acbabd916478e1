# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""ShapeTales: a benchmark of narrated stories, generated as real H.264 files.

    plan.py         events and sentences of each story
    drawing.py      pictures of an event
    rendering.py    H.264 files of a story
    generate.py     the folder: `make_shapetales`, `load_shapetales`
    tasks.py        generated data in the released format of every task

`docs/shapetales.md` describes the benchmark.
"""

from __future__ import annotations

from .generate import ShapeTales, build_vocabulary, load_shapetales, make_shapetales
from .story_plan import StoryParameters

__all__ = ["ShapeTales", "StoryParameters", "build_vocabulary", "load_shapetales", "make_shapetales"]
