# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""From vectors to answers: which videos tell a story, and when.

Two steps, as docs/architecture.md has them for retrieval: the *global* score (paragraph feature . segment feature)
finds `candidates` segments among all, and the candidates are put in order by the *aligned* score or by both. Of each
video the best segment counts. The seconds of each sentence come from the monotone alignment of the sentences with the
clips of that segment and of those that overlap it (`lfvila_hf.library.moments`). Where a pre-training model is at hand,
its video-text matching head can put the first few in a new order.

Letters: N segments, M sentences, K clips, D width, C candidates, n cells of time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch

from lfvila_hf.alignment_lfvila import aligned_similarity, monotone_alignment
from lfvila_hf.library.moments import cell_cosines, cells_of_clips
from lfvila_hf.library.stories import Story
from lfvila_hf.library.vectors import VectorSearch

Score = Literal["global", "aligned", "both"]


@dataclass(frozen=True)
class Moment:
    """When one sentence of the story happens.

    Args:
        sentence: The sentence.
        start: Second on the video at which its cell of time starts: a clip, or a part of it.
        end: Second at which it ends.
        score: Cosine of sentence and cell.
    """

    sentence: str
    start: float
    end: float
    score: float


@dataclass(frozen=True)
class Hit:
    """One video that was found, by its best segment.

    Args:
        path: As the table names it.
        score: What the hits are in order of.
        start: Second at which the segment starts.
        end: Second at which it ends.
        duration: Seconds of the whole video.
        segment: Number of the segment in the video.
        scores: Every score that was computed: "global", and where there are clips "aligned" and "both"; "vtm" after
            reranking, the probability that story and segment belong together.
        moments: One per sentence of the story; none for other questions. They may lie in a segment that overlaps this
            one.
        clip_times: n + 1 seconds: where each cell of time starts, and the end of the last. Of a segment that no other
            overlaps, and for questions without sentences, the cells are its K clips.
        cosines: Of every sentence with every cell, `(M, n)`, or `None`.
        row: Number of the segment in the library.
    """

    path: str
    score: float
    start: float
    end: float
    duration: float
    segment: int
    scores: dict[str, float]
    moments: tuple[Moment, ...] = ()
    clip_times: tuple[float, ...] = ()
    cosines: torch.Tensor | None = field(default=None, repr=False, compare=False)
    row: int = -1

    def as_dict(self) -> dict[str, Any]:
        """As JSON can carry it."""
        plain = asdict(replace(self, cosines=None))
        plain["cosines"] = None if self.cosines is None else [[round(x, 6) for x in r] for r in self.cosines.tolist()]
        del plain["row"]
        return plain


@dataclass(frozen=True)
class View:
    """The segments of a library, as the search needs them.

    Args:
        rows: The table without vectors and thumbnails, N rows.
        segments: `(N, D)`.
        clips: `(N, K, D)`, or `None`.
        search: Over `segments`.
    """

    rows: pa.Table
    segments: np.ndarray
    clips: np.ndarray | None
    search: VectorSearch

    @cached_property
    def stamps(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of the file of every video, in order of their names."""
        if not self.rows.num_rows:
            return {}
        columns = (self.rows.column(name).to_pylist() for name in ("path", "file_size", "file_mtime_ns"))
        return dict(sorted((path, (size, time)) for path, size, time in zip(*columns, strict=True)))

    def row(self, number: int) -> dict[str, Any]:
        """One row as a dict."""
        return {name: self.rows.column(name)[number].as_py() for name in self.rows.column_names}


def rank_by_story(
    view: View, story: Story, score: Score, top_k: int, candidates: int, path: str | None = None
) -> list[Hit]:
    """The best videos for a story.

    Args:
        view: What is searched.
        story: What for.
        score: What the order follows.
        top_k: Videos wanted.
        candidates: Segments that the global score lets through.
        path: Only this video.

    Raises:
        ValueError: The score needs clip features that the index does not have.
    """
    if score not in get_args(Score):
        raise ValueError(f"the score must be one of {', '.join(get_args(Score))}, got {score!r}")
    sentences = story.embeddings.sentence_embeds
    if score != "global" and (view.clips is None or sentences is None):
        raise ValueError(f"the score {score!r} needs clip features and this index has none: ask for 'global'")
    query = story.embeddings.text_embeds.numpy()
    if path is None:
        found, numbers = view.search.search(query, max(candidates, top_k))
        globals_, numbers = found[0], numbers[0]
    else:
        numbers = rows_of(view, path)
        globals_ = np.asarray(view.segments[numbers]) @ query[0]
    scores = {"global": torch.from_numpy(np.array(globals_, dtype=np.float32))}  # (C,)
    if view.clips is not None and sentences is not None:
        clips = torch.from_numpy(np.asarray(view.clips[numbers], dtype=np.float32))  # (C, K, D)
        scores["aligned"] = aligned_similarity(sentences, story.embeddings.sentence_mask, clips)[0]  # (C,)
        scores["both"] = scores["global"] + scores["aligned"]
    hits = []
    for place in best_per_video(view, scores[score], numbers, top_k if path is None else len(numbers)):
        hit = _hit(view, int(numbers[place]), {name: float(values[place]) for name, values in scores.items()}, score)
        if view.clips is not None and sentences is not None:
            hit = _with_moments(view, hit, story.sentences, sentences[0])
        hits.append(hit)
    return hits[:top_k]


def rank_by_segments(view: View, queries: np.ndarray, top_k: int, candidates: int, without: str | None) -> list[Hit]:
    """The videos with the segment nearest to any of the segments `(Q, D)` of a video.

    Args:
        view: What is searched.
        queries: Segment embeddings of the video.
        top_k: Videos wanted.
        candidates: Segments looked at for each query.
        without: A path that is left out: the video itself.
    """
    own = len(rows_of(view, without)) if without is not None else 0
    found, numbers = view.search.search(queries, max(candidates, top_k) + own)
    best: dict[int, float] = {}
    for number, value in zip(numbers.ravel().tolist(), found.ravel().tolist(), strict=True):
        if without is None or view.rows.column("path")[number].as_py() != without:
            best[number] = max(best.get(number, -np.inf), value)
    rows = np.array(list(best), dtype=np.int64)
    order = best_per_video(view, torch.tensor(list(best.values())), rows, top_k)
    return [_hit(view, int(rows[place]), {"global": best[int(rows[place])]}, "global") for place in order]


def best_per_video(view: View, scores: torch.Tensor, numbers: np.ndarray, top_k: int) -> list[int]:
    """Places of the best segment of each video, best first; equal scores go in row order."""
    order = np.lexsort((numbers, -scores.numpy()))
    paths = view.rows.column("path")
    seen: set[str] = set()
    places = []
    for place in order.tolist():
        path = paths[int(numbers[place])].as_py()
        if path not in seen:
            seen.add(path)
            places.append(place)
            if len(places) == top_k:
                break
    return places


def rows_of(view: View, path: str) -> np.ndarray:
    """Row numbers of a video's segments.

    Raises:
        ValueError: The video is not in the library.
    """
    import pyarrow.compute as pc

    rows = np.flatnonzero(pc.equal(view.rows.column("path"), path).to_numpy(zero_copy_only=False))
    if not len(rows):
        raise ValueError(f"the video {path} is not in this library")
    return rows


def _hit(view: View, number: int, scores: dict[str, float], order: str) -> Hit:
    row = view.row(number)
    return Hit(
        path=row["path"],
        score=scores[order],
        start=row["start"],
        end=row["end"],
        duration=row["duration"],
        segment=row["segment"],
        scores=scores,
        clip_times=tuple(row.get("clip_times") or ()),
        row=number,
    )


def _with_moments(view: View, hit: Hit, words: tuple[str, ...], sentences: torch.Tensor) -> Hit:
    """A hit with the seconds of every sentence `(M, D)`."""
    assert view.clips is not None
    rows = _overlapping_rows(view, hit)
    times = [view.rows.column("clip_times")[row].as_py() for row in rows]
    clips = torch.from_numpy(np.asarray(view.clips[rows], dtype=np.float32))  # (S, K, D)
    bounds = cells_of_clips(times)
    cosines = cell_cosines(times, torch.einsum("md,skd->smk", sentences.float(), clips), bounds)  # (M, n)
    cells = monotone_alignment(cosines)[1].tolist()
    seconds = bounds.tolist()
    moments = tuple(
        Moment(sentence, seconds[cell], seconds[cell + 1], float(cosines[number, cell]))
        for number, (sentence, cell) in enumerate(zip(words, cells, strict=True))
    )
    return replace(hit, moments=moments, clip_times=tuple(seconds), cosines=cosines)


def _overlapping_rows(view: View, hit: Hit) -> list[int]:
    """The rows of the hit's segment and of those that share seconds with it; those of a video lie side by side."""
    columns = [view.rows.column(name) for name in ("path", "start", "end")]

    def shares(row: int) -> bool:
        if not 0 <= row < view.rows.num_rows:
            return False
        path, start, end = (column[row].as_py() for column in columns)
        return bool(path == hit.path and start < hit.end and end > hit.start)

    first = last = hit.row
    while shares(first - 1):
        first -= 1
    while shares(last + 1):
        last += 1
    return list(range(first, last + 1))


def reordered(hits: list[Hit], matches: list[float]) -> list[Hit]:
    """The first `len(matches)` hits in the order of their matching probability, the others behind them as they were."""
    first = [
        replace(hit, score=match, scores={**hit.scores, "vtm": match})
        for hit, match in zip(hits, matches, strict=False)
    ]
    return [*sorted(first, key=lambda hit: -hit.score), *hits[len(first) :]]
