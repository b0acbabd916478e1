# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The scan and the ranking: exact best segments for a story.

One matrix product gives the cosine of every sentence with every clip. The mean over sentences of the largest cosine in
a segment (MaxSim) is an upper bound of its aligned score, so segments are aligned in falling order of the bound until
the next bound is below the score of the last hit: the top k of the aligned score is exact. For *both* the global score
(paragraph with segment vector) is added to score and bound.

Letters: N segments, C clips of all segments, M sentences, K clips of a segment, D width, n cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch

from lfvila_hf.alignment_lfvila import monotone_alignment
from lfvila_hf.search.index import clip_offsets
from lfvila_hf.search.sentence_moments import ALPHA, Calibration, Moment, cell_cosines, cells_of_clips, place_sentences
from lfvila_hf.search.story_sentences import Story

Score = Literal["global", "aligned", "both"]
FIRST_CANDIDATES = 256
BELOW_ANY_COSINE = -2.0
ROUNDING = 1e-6


@dataclass(frozen=True)
class Hit:
    """One place that was found: the best segment of a video, or a further one that does not overlap it.

    Args:
        path: Name of the video in the library.
        score: Score that the hits are in order of.
        start: Second at which the segment starts.
        end: Second at which it ends.
        duration: Seconds of the whole video.
        segment: Number of the segment in the video.
        scores: Every score that was computed: "global" with segment vectors, "aligned" with clips, "both" with both;
            "vtm" after reranking, the probability that story and segment belong together.
        moments: One per sentence of the story; none for other questions. They may lie in a segment that overlaps.
        clip_times: n + 1 seconds at which the cells of time start, and the end of the last.
        cosines: Cosine of every sentence with every cell, `(M, n)`, or `None`.
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
    row: int = field(default=-1, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """As JSON can carry it."""
        plain = asdict(replace(self, cosines=None))
        plain["cosines"] = None if self.cosines is None else [[round(x, 6) for x in r] for r in self.cosines.tolist()]
        del plain["row"]
        return plain


class Hits(list[Hit]):
    """Hits, best first.

    Attributes:
        notes: What could not be read of the story, and how the answer was made.
        missing: Numbers of the sentences that are found nowhere in the library.
    """

    notes: tuple[str, ...] = ()
    missing: tuple[int, ...] = ()

    def like_this(self, hits: list[Hit]) -> Hits:
        """Other hits with the same notes."""
        others = Hits(hits)
        others.notes, others.missing = self.notes, self.missing
        return others


@dataclass(frozen=True)
class View:
    """The segments of a library, as the search needs them.

    Args:
        rows: The light columns, N rows in order of path and segment.
        block: `(C, D)`, then `(N, D)` segment vectors if there are any.
        has_vector: Whether there are segment vectors.
    """

    rows: pa.Table
    block: np.ndarray
    has_vector: bool

    @cached_property
    def offsets(self) -> np.ndarray:
        """First clip of each segment in the block, `(N + 1,)`."""
        return clip_offsets(self.rows)

    @property
    def has_clips(self) -> bool:
        """Whether there are clip vectors."""
        return bool(self.offsets[-1])

    @cached_property
    def stamps(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of the file of every video, in order of their names."""
        columns = (self.rows.column(name).to_pylist() for name in ("path", "file_size", "mtime_ns"))
        return {path: (size, time) for path, size, time in zip(*columns, strict=True)}

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        """First and last row (excluded) of every video."""
        encoded = self.rows.column("path").combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy()
        starts = np.flatnonzero(np.diff(codes, prepend=-1)) if len(codes) else np.zeros(0, np.int64)
        names = [encoded.dictionary[int(codes[start])].as_py() for start in starts]
        return dict(zip(names, zip(starts.tolist(), [*starts[1:].tolist(), len(codes)], strict=True), strict=True))

    def rows_of(self, path: str) -> range:
        """Row numbers of a video's segments.

        Raises:
            ValueError: The video is not in the library.
        """
        if path not in self.places:
            raise ValueError(f"the video {path} is not in this library")
        return range(*self.places[path])

    def row(self, number: int) -> dict[str, Any]:
        """One row as a dict."""
        return {name: self.rows.column(name)[number].as_py() for name in self.rows.column_names}

    def take(self, numbers: Sequence[int]) -> View:
        """A view of some segments, in the order asked for."""
        spans = [np.arange(*self.offsets[number : number + 2]) for number in numbers]
        if self.has_vector:
            spans.append(int(self.offsets[-1]) + np.asarray(numbers, np.int64))
        block = self.block[np.concatenate(spans)] if spans else self.block[:0]
        return View(self.rows.take(pa.array(numbers, pa.int64())), block, self.has_vector)

    def clips(self, number: int) -> np.ndarray:
        """Clip vectors `(K, D)` of a segment."""
        return self.block[self.offsets[number] : self.offsets[number + 1]]

    def segment_vectors(self) -> np.ndarray:
        """One vector a segment `(N, D)`: its own, or the normalised mean of its clips."""
        count = int(self.offsets[-1])
        if self.has_vector:
            return self.block[count:]
        sums = np.add.reduceat(self.block, self.offsets[:-1]) if count else self.block[:0]
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


class Scan:
    """Cosines of a story with a whole library.

    Args:
        view: The library.
        story: The story.
    """

    def __init__(self, view: View, story: Story) -> None:
        self.view = view
        count = int(view.offsets[-1])
        block = torch.from_numpy(view.block)
        self.cosines = self.largest = self.globals = None
        if view.has_clips and story.vectors is not None:
            self.cosines = torch.mm(block[:count], story.vectors.T)  # (C, M)
            lengths = np.diff(view.offsets)
            if (lengths == lengths[0]).all():
                self.largest = self.cosines.view(len(lengths), int(lengths[0]), -1).amax(1)  # (N, M)
            else:
                self.largest = torch.segment_reduce(self.cosines, "max", lengths=torch.from_numpy(lengths), axis=0)
        if view.has_vector and story.paragraph is not None:
            self.globals = block[count:] @ story.paragraph  # (N,)

    def bound(self, score: Score) -> torch.Tensor:
        """Upper bound of a score for every segment, `(N,)`; for "global" the score itself.

        Raises:
            ValueError: The index lacks the vectors of that score.
        """
        if score not in get_args(Score):
            raise ValueError(f"the score must be one of {', '.join(get_args(Score))}, got {score!r}")
        parts = []
        if score != "aligned":
            if self.globals is None:
                raise ValueError(
                    f"the score {score!r} needs segment vectors and this index has none: ask for 'aligned'"
                )
            parts.append(self.globals)
        if score != "global":
            if self.largest is None:
                raise ValueError(f"the score {score!r} needs clip features and this index has none: ask for 'global'")
            parts.append(self.largest.mean(1))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    @property
    def best_score(self) -> Score:
        """The score to rank by: the sum if there are segment and clip vectors, else the one that there is."""
        if self.cosines is None:
            return "global"
        return "aligned" if self.globals is None else "both"

    def aligned(self, rows: torch.Tensor) -> torch.Tensor:
        """Aligned score of some segments `(B,)`."""
        assert self.cosines is not None
        offsets = torch.from_numpy(self.view.offsets)
        starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
        place = torch.arange(int(lengths.max()))
        index = starts[:, None] + place  # (B, K)
        there = place < lengths[:, None]
        some = self.cosines[index.clamp(max=len(self.cosines) - 1)]  # (B, K, M)
        some = torch.where(there[..., None], some, torch.full((), BELOW_ANY_COSINE))
        return monotone_alignment(some.transpose(1, 2))[0]

    def scores(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every score of some segments."""
        found = {}
        if self.globals is not None:
            found["global"] = self.globals[rows]
        if self.cosines is not None:
            found["aligned"] = self.aligned(rows)
        if len(found) == 2:
            found["both"] = found["global"] + found["aligned"]
        return found


def best_segments(
    scan: Scan, score: Score, top_k: int, per_video: int = 1, path: str | None = None, candidates: int | None = None
) -> list[tuple[int, dict[str, float]]]:
    """The exact best segments by a score, with all their scores.

    Args:
        scan: Cosines of the story.
        score: Score to rank by.
        top_k: Hits wanted.
        per_video: Hits of one video at most; they do not overlap.
        path: Only this video.
        candidates: Segments that are aligned at most. Defaults to as many as exactness takes.
    """
    view = scan.view
    bound = scan.bound(score)
    allowed = torch.arange(len(bound)) if path is None else torch.tensor(view.rows_of(path))
    bound = bound[allowed]
    most = len(bound) if candidates is None else min(candidates, len(bound))
    done, size = 0, min(FIRST_CANDIDATES, most)
    rows = torch.zeros(0, dtype=torch.int64)
    values: dict[str, torch.Tensor] = {}
    while True:
        order = bound.topk(min(size + 1, len(bound))).indices  # one more: the next bound
        new = allowed[order[done:size]]
        found = scan.scores(new)
        values = {name: torch.cat([values[name], found[name]]) if values else found[name] for name in found}
        rows, done = torch.cat([rows, new]), size
        hits = _chosen(view, rows, values[score], top_k, per_video)
        full = len(hits) == top_k and float(values[score][hits[-1]]) > float(bound[order[-1]]) + ROUNDING
        if done >= most or (full and size < len(bound)):
            return [(int(rows[hit]), {name: float(one[hit]) for name, one in values.items()}) for hit in hits]
        size = min(4 * size, most)


def _chosen(view: View, rows: torch.Tensor, scores: torch.Tensor, top_k: int, per_video: int) -> list[int]:
    """The best places, at most `per_video` of a video, which do not overlap."""
    order = np.lexsort((rows.numpy(), -scores.numpy())).tolist()
    names, starts, ends = (view.rows.column(name) for name in ("path", "start", "end"))
    taken: dict[str, list[tuple[float, float]]] = {}
    chosen = []
    for place in order:
        row = int(rows[place])
        name = names[row].as_py()
        have = taken.setdefault(name, [])
        if len(have) >= per_video:
            continue
        start, end = starts[row].as_py(), ends[row].as_py()
        if any(start < b and a < end for a, b in have):
            continue
        have.append((start, end))
        chosen.append(place)
        if len(chosen) == top_k:
            break
    return chosen


def rank_by_story(
    view: View,
    story: Story,
    score: Score | None = None,
    top_k: int = 10,
    per_video: int = 1,
    path: str | None = None,
    candidates: int | None = None,
    alpha: float = ALPHA,
) -> Hits:
    """Find the best places for a story, with the moments of its sentences; `VideoLibrary.search` says more.

    Args:
        view: The library.
        story: The story.
        score: Score to rank by. Defaults to `Scan.best_score`.
        top_k: Hits wanted.
        per_video: As for `best_segments`; so are `path` and `candidates`.
        path: Only this video.
        candidates: Segments that are aligned at most.
        alpha: Share of foreign sentences that may be reported as found.

    Raises:
        ValueError: The index lacks the vectors of the score.
    """
    scan = Scan(view, story)
    hits = Hits()
    score = score or scan.best_score
    calibration = None if scan.cosines is None else Calibration(scan.largest, scan.cosines, alpha)  # type: ignore[arg-type]  # both are there
    for row, scores in best_segments(scan, score, top_k, per_video, path, candidates):
        hit = _hit(view, row, scores, score)
        if calibration is not None:
            hit = _with_moments(scan, calibration, hit, story.sentences, everywhere=path is None)
        hits.append(hit)
    hits.notes = story.notes
    if calibration is not None and path is None:
        hits.missing = tuple(torch.nonzero(calibration.nowhere).flatten().tolist())
    return hits


def rank_by_segments(view: View, queries: np.ndarray, top_k: int, without: str | None) -> Hits:
    """Find the videos with the segment nearest to any of the segments `(Q, D)` of a video.

    Args:
        view: The library.
        queries: Segment vectors of the video.
        top_k: Videos wanted.
        without: A path that is left out: the video itself.
    """
    scores = torch.from_numpy(view.segment_vectors() @ queries.T).amax(1)  # (N,)
    if without is not None:
        scores[list(view.rows_of(without))] = -torch.inf
    rows = torch.arange(len(scores))[torch.isfinite(scores)]
    chosen = _chosen(view, rows, scores[rows], top_k, 1)
    return Hits(_hit(view, int(rows[one]), {"global": float(scores[rows[one]])}, "global") for one in chosen)


def _hit(view: View, number: int, scores: dict[str, float], order: str) -> Hit:
    row = view.row(number)
    names = ("path", "start", "end", "duration", "segment")
    return Hit(
        **{name: row[name] for name in names},
        score=scores[order],
        scores=scores,
        clip_times=tuple(row["clip_times"]),
        row=number,
    )


def _with_moments(scan: Scan, calibration: Calibration, hit: Hit, words: tuple[str, ...], everywhere: bool) -> Hit:
    """A hit with the places of every sentence."""
    view = scan.view
    assert scan.cosines is not None and scan.largest is not None
    own = view.rows_of(hit.path)
    rows = [
        row
        for row in own
        if view.rows.column("start")[row].as_py() < hit.end and view.rows.column("end")[row].as_py() > hit.start
    ]
    times = [view.rows.column("clip_times")[row].as_py() for row in rows]
    cosines = [scan.cosines[view.offsets[row] : view.offsets[row + 1]].T for row in rows]
    bounds = cells_of_clips(times)
    cells = cell_cosines(times, cosines, bounds)  # (M, n)
    p_values = calibration.p_values(hit.row, own)
    found = p_values <= calibration.alpha
    if everywhere:  # the best of a whole library is no surprise; see `lfvila_hf.search.sentence_moments`
        found &= ~calibration.nowhere
    moments = place_sentences(words, bounds, cells, calibration.threshold, found, p_values)
    return replace(hit, moments=moments, clip_times=tuple(bounds.tolist()), cosines=cells)


def reordered(hits: Hits, matches: list[float]) -> Hits:
    """The first `len(matches)` hits in order of their matching probability, the others behind them as they were."""
    first = [
        replace(hit, score=match, scores={**hit.scores, "vtm": match})
        for hit, match in zip(hits, matches, strict=False)
    ]
    return hits.like_this([*sorted(first, key=lambda hit: -hit.score), *hits[len(first) :]])
