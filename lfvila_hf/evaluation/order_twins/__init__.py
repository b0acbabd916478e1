# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""OrderTwins: a benchmark of the order of events.

    films.py                 films and their twins: `make_order_twins`, `load_order_twins`
    sources.py               clips and sentences: `ShapeTalesSource`, `ClipFolder`, `DatasetClips`
    scoring.py               accuracies with intervals, scores of any story encoder: `evaluate_order_twins`
    mteb_task.py             the task for `mteb.evaluate`, not imported here (extra `mteb`)
    order_twins_command.py   `lfvila-hf order-twins`

`docs/order-twins.md` describes what it can and cannot show.
"""

from __future__ import annotations

from .films import KINDS, Film, TwinFilms, load_order_twins, make_order_twins
from .scoring import (
    SCORES,
    Accuracy,
    encode_films,
    evaluate_order_twins,
    format_table,
    twin_accuracies,
    wilson_interval,
)
from .sources import CaptionedClips, ClipFolder, DatasetClips, ShapeTalesSource

__all__ = [
    "KINDS",
    "SCORES",
    "Accuracy",
    "CaptionedClips",
    "ClipFolder",
    "DatasetClips",
    "Film",
    "ShapeTalesSource",
    "TwinFilms",
    "encode_films",
    "evaluate_order_twins",
    "format_table",
    "load_order_twins",
    "make_order_twins",
    "twin_accuracies",
    "wilson_interval",
]
