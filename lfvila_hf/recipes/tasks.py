# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Table of the paper's tasks: kind, row loader, number of answers.

| kind | model | rows | metric |
|---|---|---|---|
| `contrastive`, `fusion` | `LFVilaForPreTraining` | clips with sentences | retrieval; accuracy of MLM and VTM |
| `retrieval` | `LFVilaModel` | videos with paragraphs | R@1, R@5, R@10, median rank |
| `question_answering` | `LFVilaForQuestionAnswering` | questions, subtitles | accuracy |
| `multiple_choice` | `LFVilaForMultipleChoice` | questions, four answers, subtitles, spans | accuracy |
| `classification` | `LFVilaForVideoClassification` | videos with a class | accuracy |

To add a task, add a row to `TASKS` with a kind of this table, here or in a copy of a script, and write a yaml that
names it. Its loader returns rows like those of the other tasks of its kind; loaders of `classification` get
`num_labels` too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from lfvila_hf.data.annotations import load_pretraining, load_retrieval
from lfvila_hf.data.task_annotations import load_activitynet_qa, load_classification, load_how2qa, load_violin


class Task(NamedTuple):
    """One task of the paper."""

    kind: str
    """Kind in the table above."""
    load: Callable[..., Any]
    """Row loader, `load(path, video_root, streaming=..., skips=...)`."""
    num_labels: int | None = None
    """Classes of the classifier, or answers to choose from."""


def _classification(num_labels: int) -> Task:
    return Task("classification", partial(load_classification, num_labels=num_labels), num_labels)


NUM_ANSWERS = 1654
TASKS: dict[str, Task] = {
    "contrastive": Task("contrastive", load_pretraining),
    "fusion": Task("fusion", load_pretraining),
    "activitynet": Task("retrieval", load_retrieval),
    "didemo": Task("retrieval", load_retrieval),
    "queryd": Task("retrieval", load_retrieval),
    "condensed_movie": Task("retrieval", load_retrieval),
    "activitynet_qa": Task("question_answering", partial(load_activitynet_qa, num_answers=NUM_ANSWERS), NUM_ANSWERS),
    "violin": Task("question_answering", load_violin, 2),
    "how2qa": Task("multiple_choice", load_how2qa, 4),
    "coin": _classification(180),
    "lvu_relationship": _classification(4),
    "lvu_scene": _classification(6),
    "lvu_way_of_speaking": _classification(5),
}


def tasks_of(*kinds: str) -> tuple[str, ...]:
    """List the tasks of some kinds."""
    return tuple(name for name, task in TASKS.items() if task.kind in kinds)


__all__ = ["NUM_ANSWERS", "TASKS", "Task", "tasks_of"]
