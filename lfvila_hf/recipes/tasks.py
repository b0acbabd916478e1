# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The tasks of the paper: what kind each is, how its rows are loaded, and how many answers it has.

| kind | model | rows | metric |
|---|---|---|---|
| `contrastive`, `fusion` | `LFVilaForPreTraining` | clips with sentences | retrieval; accuracy of MLM and VTM |
| `retrieval` | `LFVilaModel` | whole videos with paragraphs | R@1, R@5, R@10, median rank |
| `question_answering` | `LFVilaForQuestionAnswering` | questions, subtitles | accuracy |
| `multiple_choice` | `LFVilaForMultipleChoice` | questions, four answers, subtitles, spans | accuracy |
| `classification` | `LFVilaForVideoClassification` | whole videos | accuracy |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from lfvila_hf.data.annotations import load_pretraining, load_retrieval
from lfvila_hf.data.datasets import PreTrainingReader, RowReader
from lfvila_hf.data.task_annotations import load_activitynet_qa, load_classification, load_how2qa, load_violin
from lfvila_hf.data.task_collating import (
    MultipleChoiceCollator,
    QuestionAnsweringCollator,
    VideoClassificationCollator,
)
from lfvila_hf.data.task_datasets import (
    ClassificationReader,
    MultipleChoiceReader,
    QuestionAnsweringReader,
    ViewedRetrievalReader,
)


class Task(NamedTuple):
    """One task of the paper."""

    kind: str
    """Row of the table above."""
    load: Callable[..., Any]
    """`load(path, video_root, streaming=..., skips=...)`."""
    reader: type[RowReader]
    """What makes samples of rows."""
    num_labels: int | None = None
    """Classes of the classifier, or answers to choose from."""


def _classes(count: int) -> Task:
    return Task("classification", partial(load_classification, num_labels=count), ClassificationReader, count)


NUM_ANSWERS = 1654
TASKS: dict[str, Task] = {
    "contrastive": Task("contrastive", load_pretraining, PreTrainingReader),
    "fusion": Task("fusion", load_pretraining, PreTrainingReader),
    "activitynet": Task("retrieval", load_retrieval, ViewedRetrievalReader),
    "didemo": Task("retrieval", load_retrieval, ViewedRetrievalReader),
    "queryd": Task("retrieval", load_retrieval, ViewedRetrievalReader),
    "condensed_movie": Task("retrieval", load_retrieval, ViewedRetrievalReader),
    "activitynet_qa": Task("question_answering", load_activitynet_qa, QuestionAnsweringReader, NUM_ANSWERS),
    "violin": Task("question_answering", load_violin, QuestionAnsweringReader, 2),
    "how2qa": Task("multiple_choice", load_how2qa, MultipleChoiceReader, 4),
    "coin": _classes(180),
    "lvu_relationship": _classes(4),
    "lvu_scene": _classes(6),
    "lvu_way_of_speaking": _classes(5),
}
COLLATORS: dict[str, Any] = {
    "question_answering": QuestionAnsweringCollator,
    "multiple_choice": MultipleChoiceCollator,
    "classification": VideoClassificationCollator,
}


def tasks_of(*kinds: str) -> tuple[str, ...]:
    """Names of the tasks of some kinds."""
    return tuple(name for name, task in TASKS.items() if task.kind in kinds)


__all__ = ["COLLATORS", "NUM_ANSWERS", "TASKS", "Task", "tasks_of"]
