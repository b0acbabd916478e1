# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Generated videos with annotations in the released format of every task, for `--smoke` and the learning tests.

The videos are those of ShapeTales (`plan`, `rendering`), drawn so that only the video gives the answer of each task:

- pre-training and retrieval: stories of four events, told by one sentence each (Condensed Movie: by one string);
- ActivityNet-QA: stories in one place; "where does it happen" asks for one of six places, "how many things happen" for
  one or two;
- VIOLIN: a statement that says in some words that it is dark, true of every other story, with subtitles that say
  nothing about it;
- How2QA: two events in two places; the question is where the first or the last of them is, which is the span; of the
  wrong answers one is a place that does not occur and two are no places, so that the texts alone give half of the
  right answers and the video the rest;
- COIN and LVU: the class is the place (as many of the six as there are classes).

Numbers measured on these show that a recipe learns, and nothing about the task that the format belongs to. Every story
is drawn from (seed, split, number), so a folder is the same wherever it is made. Memory: one video.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .generate import build_vocabulary
from .rendering import StoryRenderer, clip_names
from .story_plan import ACTIONS, COLOURS, FIGURES, PLACES, Event, Story, StoryParameters, tell

VERSION = 1
"""Raised with every change of pictures or texts."""
SEED = 22_200
SPLITS = ("train", "test")
_WHERE, _HOW_MANY = "where does it happen", "how many things happen"
PLACE_PHRASES = {
    "meadow": "in a field",
    "beach": "on the beach",
    "sea": "over the sea",
    "desert": "in the desert",
    "night": "in the night",
    "snow": "in the snow",
}
DARK = ("It happens in the night.", "It is dark.", "The moon shines on it.", "All this happens in the dark.")
NO_PLACES = ("a red star", "it grows")
ANSWERS = (*PLACES, "one", "two")
"""Vocabulary of the generated ActivityNet-QA."""
SMALL = StoryParameters(
    min_seconds=1.0, max_seconds=1.5, fps=8, height=48, width=80, clip_files=True, train_stories=0, query_stories=0
)


@dataclass(frozen=True)
class GeneratedTask:
    """A finished folder.

    Attributes:
        data_dir: Folder of `train.jsonl` and `test.jsonl`.
        video_dir: Folder of the videos, or for pre-training of the folders of clips.
        vocabulary: Word pieces for a small BERT tokenizer.
    """

    data_dir: Path
    video_dir: Path
    vocabulary: list[str]


def make_task_data(root: str | os.PathLike[str], task: str, train_videos: int, test_videos: int) -> GeneratedTask:
    """Draw videos and write annotations in a task's released format.

    Args:
        root: Folder to write to. Data that an earlier call with the same arguments finished are kept, others replaced.
        task: A name of `recipes.tasks.TASKS`.
        train_videos: Number of videos to train on.
        test_videos: Number of videos to test on.

    Returns:
        The finished folder.

    Raises:
        ValueError: The task is unknown, or a number is below 1.
    """
    if task not in _WRITERS:
        raise ValueError(f"no generated data for {task!r}, expected one of {', '.join(_WRITERS)}")
    if train_videos < 1 or test_videos < 1:
        raise ValueError(f"at least one video of each split is needed, got {train_videos} and {test_videos}")
    folder = Path(root)
    videos = folder / ("clips" if task in ("contrastive", "fusion") else "videos")
    made, wanted = folder / "made.json", {"version": VERSION, "task": task, "videos": [train_videos, test_videos]}
    if made.is_file():
        found = json.loads(made.read_text(encoding="utf-8"))
        if {name: found.get(name) for name in wanted} == wanted:
            return GeneratedTask(folder, videos, found["vocabulary"])
        made.unlink()
    for name in ("videos", "clips"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    render = StoryRenderer(folder, SMALL)
    plan, write = _WRITERS[task]
    texts: list[str] = []
    for split, count in zip(SPLITS, (train_videos, test_videos), strict=True):
        lines = []
        for number in range(count):
            generator = np.random.default_rng((SEED, SPLITS.index(split), number))
            story = _story(split, number, plan(number, generator), generator)
            render(story)
            rows = write(story, number, generator)
            lines += [json.dumps(row) + "\n" for row in rows]
            texts += [text for row in rows for text in _texts(row)]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    vocabulary = build_vocabulary(texts)
    made.write_text(json.dumps({**wanted, "vocabulary": vocabulary}) + "\n", encoding="utf-8")
    return GeneratedTask(folder, videos, vocabulary)


def _story(split: str, number: int, events: tuple[Event, ...], generator: np.random.Generator) -> Story:
    shortest, longest = (round(seconds * SMALL.fps) for seconds in (SMALL.min_seconds, SMALL.max_seconds))
    return Story(
        clip_id=f"{split}_{number:05d}",
        split=split,
        number=number,
        events=events,
        sentences=tuple(tell(event, generator) for event in events),
        clip_frames=tuple(int(frames) for frames in generator.integers(shortest, longest + 1, size=len(events))),
    )


def _event(place: str, generator: np.random.Generator) -> Event:
    figure, colour, action = (names[generator.integers(len(names))] for names in (FIGURES, COLOURS, ACTIONS))
    return Event(figure, colour, action, place)


def _four_events(number: int, generator: np.random.Generator) -> tuple[Event, ...]:
    return tuple(_event(PLACES[generator.integers(len(PLACES))], generator) for _ in range(4))


def _two_places(number: int, generator: np.random.Generator) -> tuple[Event, ...]:
    first, second = generator.permutation(len(PLACES))[:2]
    return _event(PLACES[first], generator), _event(PLACES[second], generator)


def _one_place(number: int, generator: np.random.Generator) -> tuple[Event, ...]:
    """Draw one or two events in the place of the story's number; two in every other run through the places."""
    place = PLACES[number % len(PLACES)]
    return tuple(_event(place, generator) for _ in range(1 + number // len(PLACES) % 2))


def _night_or_day(number: int, generator: np.random.Generator) -> tuple[Event, ...]:
    """Draw two events at night in every other story, in another place in the others."""
    by_day = [place for place in PLACES if place != "night"]
    place = by_day[number // 2 % len(by_day)] if number % 2 else "night"
    return tuple(_event(place, generator) for _ in range(2))


def _pretraining(story: Story, number: int, generator: np.random.Generator) -> list[Any]:
    return [[{"clip_id": name, "text": text} for name, text in zip(clip_names(story), story.sentences, strict=True)]]


def _paragraph(story: Story, number: int, generator: np.random.Generator) -> list[Any]:
    return [{"clip_id": story.clip_id, "text": list(story.sentences)}]


def _one_string(story: Story, number: int, generator: np.random.Generator) -> list[Any]:
    return [{"clip_id": story.clip_id, "text": " ".join(story.sentences)}]


def _open_questions(story: Story, number: int, generator: np.random.Generator) -> list[Any]:
    right = {_WHERE: story.events[0].place, _HOW_MANY: ("one", "two")[len(story.events) - 1]}
    return [
        {"video_name": story.clip_id, "question": question, "answer": ANSWERS.index(answer)}
        for question, answer in right.items()
    ]


def _statements(story: Story, number: int, generator: np.random.Generator) -> list[Any]:
    said = [{"start": 0.0, "end": 0.5, "text": "Look at that."}, {"start": 0.5, "end": 1.0, "text": "I see it."}]
    statement = DARK[generator.integers(len(DARK))]
    answer = int(story.events[0].place == "night")
    return [{"clip_id": story.clip_id, "text_q": statement, "text_s": said, "answer": answer}]


def _choices(story: Story, number: int, generator: np.random.Generator) -> list[Any]:
    which = int(generator.integers(2))
    shown = [event.place for event in story.events]
    absent = [place for place in PLACES if place not in shown]
    others = [PLACE_PHRASES[absent[generator.integers(len(absent))]], *NO_PLACES]
    wrong = [others[place] for place in generator.permutation(len(others))]
    right = int(generator.integers(4))
    answers = [*wrong[:right], PLACE_PHRASES[shown[which]], *wrong[right:]]
    cut = story.clip_frames[0] / SMALL.fps
    span = [0.0, cut] if which == 0 else [cut, sum(story.clip_frames) / SMALL.fps]
    question = f"Where is the {('first', 'last')[which]} thing?"
    said = [{"start": span[0], "end": span[1], "text": "Look at that."}]
    return [
        {
            "clip_id": story.clip_id,
            "span": span,
            "text_q": question,
            "text_a": answers,
            "text_s": said,
            "answer_idx": right,
        }
    ]


def _classes(count: int) -> tuple[Callable[..., tuple[Event, ...]], Callable[..., list[Any]]]:
    used = min(count, len(PLACES))

    def plan(number: int, generator: np.random.Generator) -> tuple[Event, ...]:
        return tuple(_event(PLACES[number % used], generator) for _ in range(2))

    def write(story: Story, number: int, generator: np.random.Generator) -> list[Any]:
        return [{"video_id": story.clip_id, "recipe_type": number % used}]

    return plan, write


def _texts(row: Any) -> list[str]:
    """Return every text of a row, for the vocabulary."""
    if isinstance(row, list):
        return [clip["text"] for clip in row]
    texts = [row.get("question", ""), row.get("text_q", ""), *row.get("text_a", [])]
    texts += [one["text"] for one in row.get("text_s", [])]
    told = row.get("text", [])
    return [*texts, *([told] if isinstance(told, str) else told)]


_WRITERS: dict[str, tuple[Callable[..., tuple[Event, ...]], Callable[..., list[Any]]]] = {
    "contrastive": (_four_events, _pretraining),
    "fusion": (_four_events, _pretraining),
    "activitynet": (_four_events, _paragraph),
    "didemo": (_four_events, _paragraph),
    "queryd": (_four_events, _paragraph),
    "condensed_movie": (_four_events, _one_string),
    "activitynet_qa": (_one_place, _open_questions),
    "violin": (_night_or_day, _statements),
    "how2qa": (_two_places, _choices),
    "coin": _classes(180),
    "lvu_relationship": _classes(4),
    "lvu_scene": _classes(6),
    "lvu_way_of_speaking": _classes(5),
}


__all__ = ["ANSWERS", "GeneratedTask", "make_task_data"]
