# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Events and sentences of the ShapeTales stories: the part of the benchmark that needs no picture.

Design note.

1. A story is 4 to 8 *events*, drawn one after another without any rule that links them, so that nothing but the video
   (or the paragraph) tells their order. An event is a figure, a colour, an action and a place; the events of a story
   are all different, their attributes need not be.
2. Every event is told by one sentence. Template, opener, adverb and synonyms are drawn for each sentence alone, and no
   word such as "then" or "finally" exists, so a sentence says nothing about its position.
3. Held-out splits contain *order twins*: a second story with the same events in an order in which no event keeps its
   place, with other words, other clip lengths and (in `rendering`) other pictures.
4. Each split has a fixed seed, and each story has its own generators, seeded by (split, number, purpose). So the test
   set does not depend on the size of the training set, and a smaller training set is the beginning of a larger one. No
   story of one split has the events of a story of another, in any order.

`docs/shapetales.md` describes the benchmark as a whole.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

SPLIT_SEEDS = {"train": 22_100, "validation": 22_101, "test": 22_102, "query": 22_103}
"""The benchmark's fixed seeds: a number measured on ShapeTales is a number on stories drawn from these."""

HELD_OUT_TWINS = 0.5
"""Share of the validation and test stories that belong to a pair of order twins."""

FIGURES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
ACTIONS = ("slide left", "slide right", "rise", "fall", "grow", "shrink", "split", "merge")
PLACES = ("meadow", "beach", "sea", "desert", "night", "snow")

# Purpose of a generator of a story; part of its seed.
_EVENTS, _WORDS, _LENGTHS, _PICTURES = range(4)
_DRAWS_BEFORE_GIVING_UP = 1_000

_FIGURE_WORDS = {
    "circle": (("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "cross": (("cross", "crosses"),),
    "ring": (("ring", "rings"), ("hoop", "hoops")),
}
_COLOUR_WORDS = {
    "red": ("red", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "white": ("white",),
    "black": ("black",),
}
# The verbs of "merge" follow a plural subject: it begins with two figures.
_ACTION_WORDS = {
    "slide left": ("slides to the left", "glides to the left", "moves left", "heads left"),
    "slide right": ("slides to the right", "glides to the right", "moves right", "heads right"),
    "rise": ("rises", "goes up", "climbs", "floats upwards"),
    "fall": ("falls", "goes down", "sinks", "drops downwards"),
    "grow": ("grows", "gets bigger", "becomes larger"),
    "shrink": ("shrinks", "gets smaller", "becomes tiny"),
    "split": ("splits in two", "breaks into two", "divides into two parts"),
    "merge": ("merge into one", "come together", "unite"),
}
_PLACE_WORDS = {
    "meadow": ("over the meadow", "above the grass", "in a field"),
    "beach": ("on the beach", "by the shore", "along the coast"),
    "sea": ("over the sea", "above the waves", "out on the ocean"),
    "desert": ("in the desert", "over the dunes", "among the cactuses"),
    "night": ("in the night", "under the moon", "in the dark"),
    "snow": ("in the snow", "in winter", "on a frosty day"),
}
_ADVERBS = ("slowly", "steadily", "smoothly", "quietly")
_ADVERB_PROBABILITY = 0.25
# {who}: the subject; {does}: the verb, perhaps with an adverb; {where}: the place; {is}, {it}: agree with the subject.
_TEMPLATES = (
    "{who} {does} {where}.",
    "{where}, {who} {does}.",
    "{who} {where} {does}.",
    "here {who} {does} {where}.",
    "look, {who} {does} {where}.",
    "{where} there {is} {who}, and {it} {does}.",
    "{where} we see how {who} {does}.",
    "we watch {who} that {does} {where}.",
)


class Event(NamedTuple):
    """Content of one clip and of one sentence."""

    figure: str
    colour: str
    action: str
    place: str


@dataclass(frozen=True)
class StoryParameters:
    """Parameters of a ShapeTales folder; two folders with equal parameters hold the same stories.

    Attributes:
        train_stories: Number of training stories.
        validation_stories: Number of validation stories; a multiple of 4, so that half of them can be order twins.
        test_stories: Number of test stories; a multiple of 4.
        query_stories: Number of stories for the queries of a demonstration; no other split has their events.
        train_twins: Share (0 to 1) of the training stories that belong to a pair of order twins.
        min_clips: Fewest events of a story.
        max_clips: Most events of a story.
        min_seconds: Length of the shortest clip in seconds.
        max_seconds: Length of the longest clip in seconds.
        fps: Frames per second.
        height: Frame height in pixels, even (4:2:0 chroma).
        width: Frame width in pixels, even.
        crf: x264's constant rate factor; 23 is x264's own default.
        clip_files: Also write each clip as a separate file, which the pre-training format needs.
    """

    train_stories: int = 1_600
    validation_stories: int = 100
    test_stories: int = 200
    query_stories: int = 1
    train_twins: float = 0.0
    min_clips: int = 4
    max_clips: int = 8
    min_seconds: float = 2.0
    max_seconds: float = 3.0
    fps: int = 8
    height: int = 96
    width: int = 160
    crf: int = 23
    clip_files: bool = True

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: A value cannot be drawn; the message says what was expected.
        """
        for name in ("train_stories", "validation_stories", "test_stories", "query_stories"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0")
        for name in ("validation_stories", "test_stories"):
            if getattr(self, name) % 4:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected a multiple of 4: half of the stories are pairs of twins"
                )
        if not 0.0 <= self.train_twins <= 1.0:
            raise ValueError(f"train_twins is {self.train_twins}, expected a share from 0 to 1")
        if not 2 <= self.min_clips <= self.max_clips:
            raise ValueError(
                f"min_clips is {self.min_clips} and max_clips {self.max_clips}, expected 2 <= min_clips <= max_clips: "
                "a single event has no order"
            )
        if self.fps < 1:
            raise ValueError(f"fps is {self.fps}, expected at least 1")
        if not self.min_seconds <= self.max_seconds or round(self.min_seconds * self.fps) < 2:
            raise ValueError(
                f"clips last {self.min_seconds} to {self.max_seconds} seconds at {self.fps} fps, expected "
                "min_seconds <= max_seconds and at least 2 frames: one frame shows no motion"
            )
        for name, smallest in (("height", 32), ("width", 48)):
            if getattr(self, name) < smallest or getattr(self, name) % 2:
                raise ValueError(f"{name} is {getattr(self, name)}, expected an even number of {smallest} or more")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf is {self.crf}, expected 0 to 51")


@dataclass(frozen=True)
class Story:
    """One story before it is drawn.

    Attributes:
        clip_id: Name of the video, without folder and ending.
        split: `train`, `validation`, `test` or `query`.
        number: Number of the story in its split; together they seed every random draw of the story.
        events: One event per clip, in the order in which they happen.
        sentences: One sentence per event, in the same order.
        clip_frames: Number of frames of each clip.
        twin_of: `clip_id` of the story with the same events in another order, if there is one.
    """

    clip_id: str
    split: str
    number: int
    events: tuple[Event, ...]
    sentences: tuple[str, ...]
    clip_frames: tuple[int, ...]
    twin_of: str | None = None

    @property
    def first_frames(self) -> tuple[int, ...]:
        """Index of the first frame of each clip in the whole video."""
        return tuple(itertools.accumulate((0, *self.clip_frames[:-1])))

    def picture_generator(self) -> np.random.Generator:
        """Return a fresh generator for the jitter of this story's pictures."""
        return _generator(self.split, self.number, _PICTURES)


def tell(event: Event, generator: np.random.Generator) -> str:
    """Put one event into words: a template, synonyms and perhaps an adverb, each drawn by `generator`."""

    def one_of(choices: tuple[str, ...]) -> str:
        return choices[generator.integers(len(choices))]

    figures = _FIGURE_WORDS[event.figure]
    singular, plural = figures[generator.integers(len(figures))]
    colour = one_of(_COLOUR_WORDS[event.colour])
    does = one_of(_ACTION_WORDS[event.action])
    if generator.random() < _ADVERB_PROBABILITY:
        does = f"{one_of(_ADVERBS)} {does}"
    is_plural = event.action == "merge"
    if is_plural:
        who = f"two {colour} {plural}"
    else:
        article = "an" if colour[0] in "aeiou" else "a"
        who = f"{one_of((article, 'one'))} {colour} {singular}"
    sentence = one_of(_TEMPLATES).format(
        who=who,
        does=does,
        where=one_of(_PLACE_WORDS[event.place]),
        **{"is": "are" if is_plural else "is", "it": "they" if is_plural else "it"},
    )
    return sentence[0].upper() + sentence[1:]


def story_words() -> list[str]:
    """Return every word that `tell` can use, in lower case, sorted."""
    phrases = [word for forms in _FIGURE_WORDS.values() for pair in forms for word in pair]
    for synonyms in (_COLOUR_WORDS, _ACTION_WORDS, _PLACE_WORDS):
        phrases += [phrase for group in synonyms.values() for phrase in group]
    phrases += [*_ADVERBS, "a", "an", "one", "two", "is", "are", "it", "they"]
    blanks = dict.fromkeys(("who", "does", "where", "is", "it"), "")
    phrases += [template.format(**blanks).replace(",", " ").replace(".", " ") for template in _TEMPLATES]
    return sorted({word for phrase in phrases for word in phrase.split()})


def plan_stories(parameters: StoryParameters) -> dict[str, list[Story]]:
    """Draw every story of every split; nothing is rendered.

    Returns:
        Split name to stories. Held-out splits are drawn first, so they do not depend on `train_stories`.

    Raises:
        ValueError: `min_clips` and `max_clips` leave too few different stories.
    """
    taken: set[frozenset[Event]] = set()
    plans = {
        "test": _plan_split("test", parameters.test_stories, HELD_OUT_TWINS, parameters, taken),
        "validation": _plan_split("validation", parameters.validation_stories, HELD_OUT_TWINS, parameters, taken),
        "query": _plan_split("query", parameters.query_stories, 0.0, parameters, taken),
        "train": _plan_split("train", parameters.train_stories, parameters.train_twins, parameters, taken),
    }
    return {split: plans[split] for split in SPLIT_SEEDS}


def fingerprint(plans: dict[str, list[Story]]) -> str:
    """Compute a SHA-256 over all stories: equal fingerprints mean equal events, words, lengths and orders.

    numpy does not promise that its generators draw the same in later versions; a change would show here.
    """
    stories = [asdict(story) for split in sorted(plans) for story in plans[split]]
    return hashlib.sha256(json.dumps(stories, sort_keys=True).encode()).hexdigest()


def _generator(split: str, number: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng((SPLIT_SEEDS[split], number, purpose))


def _plan_split(
    split: str, num_stories: int, twins: float, parameters: StoryParameters, taken: set[frozenset[Event]]
) -> list[Story]:
    """Draw one split; twins are neighbours, spread evenly. Adds the sets of events it uses to `taken`."""
    stories: list[Story] = []
    num_twins = 0
    while len(stories) < num_stories:
        number = len(stories)
        events = _draw_events(split, number, parameters, taken)
        if number + 2 <= num_stories and num_twins + 2 <= twins * (number + 2):
            order = _derangement(len(events), _generator(split, number + 1, _EVENTS))
            partners = (_clip_id(split, number + 1), _clip_id(split, number))
            stories.append(_dress(split, number, events, parameters, twin_of=partners[0]))
            reordered = tuple(events[position] for position in order)
            stories.append(_dress(split, number + 1, reordered, parameters, twin_of=partners[1]))
            num_twins += 2
        else:
            stories.append(_dress(split, number, events, parameters, twin_of=None))
    return stories


def _clip_id(split: str, number: int) -> str:
    return f"{split}_{number:05d}"


def _draw_events(
    split: str, number: int, parameters: StoryParameters, taken: set[frozenset[Event]]
) -> tuple[Event, ...]:
    """Draw events until they are all different and no earlier story has the same set of them."""
    generator = _generator(split, number, _EVENTS)
    for _ in range(_DRAWS_BEFORE_GIVING_UP):
        num_events = int(generator.integers(parameters.min_clips, parameters.max_clips + 1))
        sizes = [len(values) for values in (FIGURES, COLOURS, ACTIONS, PLACES)]
        draws = generator.integers(0, sizes, size=(num_events, len(sizes)))  # (events, attributes)
        events = tuple(Event(FIGURES[f], COLOURS[c], ACTIONS[a], PLACES[p]) for f, c, a, p in draws)
        key = frozenset(events)
        if len(key) == num_events and key not in taken:
            taken.add(key)
            return events
    raise ValueError(
        f"no new story found for {split} number {number} in {_DRAWS_BEFORE_GIVING_UP} draws of {parameters.min_clips} "
        f"to {parameters.max_clips} events; ask for fewer stories or for longer ones"
    )


def _derangement(size: int, generator: np.random.Generator) -> tuple[int, ...]:
    """Draw an order, uniformly, in which nothing keeps its place (accepted with probability about 1/e)."""
    while True:
        order = generator.permutation(size)
        if not np.any(order == np.arange(size)):
            return tuple(int(position) for position in order)


def _dress(
    split: str, number: int, events: tuple[Event, ...], parameters: StoryParameters, *, twin_of: str | None
) -> Story:
    """Give events their words and the lengths of their clips."""
    words = _generator(split, number, _WORDS)
    shortest, longest = round(parameters.min_seconds * parameters.fps), round(parameters.max_seconds * parameters.fps)
    lengths = _generator(split, number, _LENGTHS).integers(shortest, longest + 1, size=len(events))
    return Story(
        clip_id=_clip_id(split, number),
        split=split,
        number=number,
        events=events,
        sentences=tuple(tell(event, words) for event in events),
        clip_frames=tuple(int(length) for length in lengths),
        twin_of=twin_of,
    )
