"""The scan, the bound and the ranking: equal to brute force; calibration, spans and moments worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch
from small_library import random_vectors

from lfvila_hf.alignment_lfvila import aligned_similarity
from lfvila_hf.search.ranking import Scan, View, best_segments, rank_by_story
from lfvila_hf.search.sentence_moments import Calibration, cell_cosines, cells_of_clips, place_sentences
from lfvila_hf.search.story_sentences import Story


def make_view(lengths: np.ndarray, width: int, seed: int, per_video: int = 4, has_vector: bool = False) -> View:
    """A library of segments of so many clips, some in one video, none overlapping."""
    count = len(lengths)
    number = np.arange(count)
    starts = (number % per_video * 100).astype(float)
    rows = {
        "path": [f"{n // per_video:05d}.mp4" for n in number],
        "segment": pa.array(number % per_video, pa.int32()),
        "start": starts,
        "end": starts + 60,
        "duration": np.full(count, 100.0 * per_video),
        "clip_times": [np.linspace(start, start + 60, k + 1) for start, k in zip(starts, lengths, strict=True)],
        "file_size": np.zeros(count, np.int64),
        "mtime_ns": np.zeros(count, np.int64),
    }
    block = random_vectors(int(lengths.sum()) + (count if has_vector else 0), width, seed)
    return View(pa.table(rows), block, has_vector)


def brute_force(view: View, story: Story, score: str, top_k: int) -> list[tuple[float, int]]:
    """Every segment aligned; the best of each video, best first."""
    mask = torch.ones(1, len(story.sentences))
    scores = []
    for row in range(len(view.rows)):
        aligned = float(aligned_similarity(story.vectors[None], mask, torch.from_numpy(view.clips(row))[None])[0, 0])
        extra = float(torch.from_numpy(view.segment_vectors()[row]) @ story.paragraph) if score == "both" else 0.0
        scores.append(aligned + extra)
    best: dict[str, tuple[float, int]] = {}
    for row, value in enumerate(scores):
        path = view.rows.column("path")[row].as_py()
        if path not in best or value > best[path][0]:
            best[path] = (value, row)
    return sorted(best.values(), key=lambda one: -one[0])[:top_k]


def random_story(sentences: int, width: int, seed: int) -> Story:
    vectors = torch.from_numpy(random_vectors(sentences + 1, width, seed))
    return Story(tuple(f"s{n}" for n in range(sentences)), vectors[:-1], vectors[-1])


@pytest.mark.parametrize("score", ["aligned", "both"])
@pytest.mark.parametrize("lengths", ["equal", "different"])
def test_the_top_k_is_that_of_brute_force(score: str, lengths: str) -> None:
    generator = np.random.default_rng(7)
    for seed in range(6):
        clips = np.full(200, generator.integers(1, 17)) if lengths == "equal" else generator.integers(1, 17, 200)
        view = make_view(clips, 16, seed, has_vector=True)
        for number in range(5):
            story = random_story(int(generator.integers(1, 9)), 16, 1000 * seed + number)
            expected = brute_force(view, story, score, 5)
            found = best_segments(Scan(view, story), score, 5)  # type: ignore[arg-type]  # one of the names
            assert [row for row, _ in found] == [row for _, row in expected]
            np.testing.assert_allclose([one[score] for _, one in found], [value for value, _ in expected], atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_queries_over_5000_segments_are_those_of_brute_force() -> None:
    """M from 1 to 8, K from 4 to 64; brute force aligns all segments at once."""
    generator = np.random.default_rng(0)
    for clips, queries in ((4, 250), (8, 250), (16, 250), (32, 150), (64, 100)):
        view = make_view(np.full(5000, clips), 32, clips)
        block = torch.from_numpy(view.block).view(5000, clips, 32)
        for number in range(queries):
            story = random_story(int(generator.integers(1, 9)), 32, 10_000 * clips + number)
            every = aligned_similarity(story.vectors[None], torch.ones(1, len(story.sentences)), block)[0]
            by_video = every.view(-1, 4).amax(1).topk(10).values
            found = best_segments(Scan(view, story), "aligned", 10)
            np.testing.assert_allclose([one["aligned"] for _, one in found], by_video, atol=2e-6)
            assert all(abs(float(every[row]) - one["aligned"]) < 2e-6 for row, one in found)


def test_the_bound_is_never_below_the_score_and_stops_early() -> None:
    view = make_view(np.full(3000, 8), 64, 1)
    near = view.clips(1234)
    story = Story(("a", "b", "c"), torch.from_numpy(near[[1, 3, 6]]), None)
    scan = Scan(view, story)
    rows = torch.arange(3000)
    assert (scan.bound("aligned") >= scan.aligned(rows) - 1e-6).all()
    aligned: list[int] = []
    plain = scan.aligned
    scan.aligned = lambda some: (aligned.append(len(some)), plain(some))[1]  # type: ignore[method-assign]  # counts
    ((row, _),) = best_segments(scan, "aligned", 1)
    assert row == 1234 and sum(aligned) < 300, "a clear answer needs few alignments"
    assert [one for one, _ in best_segments(scan, "aligned", 3, candidates=1)] == [1234]


def test_hits_of_one_video_do_not_overlap() -> None:
    view = make_view(np.full(40, 4), 16, 0)
    story = random_story(2, 16, 5)
    hits = rank_by_story(view, story, top_k=8, per_video=3)
    for path in {hit.path for hit in hits}:
        own = sorted((hit.start, hit.end) for hit in hits if hit.path == path)
        assert len(own) <= 3 and all(a[1] <= b[0] for a, b in zip(own, own[1:], strict=False))
    (only,) = rank_by_story(view, story, path="00003.mp4")
    assert only.path == "00003.mp4"


# -- cells -------------------------------------------------------------------------------------------------------------

FIRST, SECOND = [0.0, 2.0, 4.0, 6.0], [3.0, 5.0, 7.0, 9.0]


def test_clips_are_cut_where_another_segments_clip_begins_or_ends() -> None:
    bounds = cells_of_clips([FIRST, SECOND])
    assert bounds.tolist() == [0, 2, 3, 4, 5, 6, 7, 9]
    cosines = [torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[5.0, 7.0, 9.0]])]  # one sentence, three clips each
    # 0-2 and 2-3 by the first alone, 3-4 by clips 2 and 5, 4-5 by 3 and 5, 5-6 by 3 and 7, then the second alone
    assert cell_cosines([FIRST, SECOND], cosines, bounds).tolist() == [[1.0, 2.0, 3.5, 4.0, 5.0, 7.0, 9.0]]
    assert cells_of_clips([FIRST]).tolist() == FIRST and torch.equal(
        cell_cosines([FIRST], cosines[:1], np.array(FIRST)), cosines[0]
    )
    assert cells_of_clips([[0.0, 2.1, 4.2, 6.0], [3.0, 4.3, 5.9, 9.0]]).tolist() == [0, 2.1, 3.0, 4.2, 5.9, 9.0]
    assert cells_of_clips([[0.0, 2.0, 4.0], [0.1, 2.1, 4.1]]).tolist() == [0, 2, 4.1], "none at the end either"
    assert cells_of_clips([[0.0, 0.0, 0.0, 1.0]]).tolist() == [0, 1], "clips without length count nowhere"
    assert cells_of_clips([[0.0, 2.0, 4.0], [2.0, 4.0, 6.0, 8.0]]).tolist() == [0, 2, 4, 6, 8], "different numbers"


def test_cells_agree_with_a_look_at_every_second() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        times = np.sort(generator.uniform(0, 8, (3, 5)), axis=1) + np.array([[0.0], [3.0], [6.0]])
        times[:, 0], times[:, -1] = [0, 3, 6], [9, 12, 15]  # each overlaps the next: no second is left out
        cosines = torch.from_numpy(generator.standard_normal((3, 2, 4)).astype(np.float32))
        bounds = cells_of_clips(times.tolist())
        assert (np.diff(bounds) > 0).all() and bounds[0] == 0 and bounds[-1] == 15
        found = cell_cosines(times.tolist(), list(cosines), bounds)
        for cell, middle in enumerate((bounds[1:] + bounds[:-1]) / 2):
            seen = [
                cosines[segment, :, clip]
                for segment, clip in itertools.product(range(3), range(4))
                if times[segment, clip] <= middle < times[segment, clip + 1]
            ]
            assert seen and torch.allclose(found[:, cell], torch.stack(seen).mean(0), atol=1e-6)


# -- not here ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("segments", "rate"), [(400, (0.08, 0.12)), (20, (0.05, 0.16))])
def test_foreign_sentences_are_found_as_often_as_was_said(segments: int, rate: tuple[float, float]) -> None:
    """By rank among other segments, and by the spread of all clips where there are too few of them."""
    generator = np.random.default_rng(3)
    found = []
    for _ in range(60):
        cosines = torch.from_numpy(generator.normal(0.2, 0.05, (segments, 8, 16)).astype(np.float32))
        largest = cosines.amax(1)
        calibration = Calibration(largest, cosines.flatten(0, 1))
        found.append((calibration.p_values(0, range(1)) <= 0.1).float().mean())
    assert rate[0] <= float(torch.stack(found).mean()) <= rate[1]


@pytest.mark.parametrize("segments", [400, 20])
def test_a_sentence_that_stands_out_is_found_and_noise_is_nowhere(segments: int) -> None:
    generator = np.random.default_rng(5)
    cosines = torch.from_numpy(generator.normal(0.2, 0.02, (segments, 8, 40)).astype(np.float32))
    cosines[7, 3, :20] = 0.45  # twenty sentences are shown by one clip, twenty are not
    calibration = Calibration(cosines.amax(1), cosines.flatten(0, 1))
    assert not calibration.nowhere[:20].any()
    assert float(calibration.nowhere[20:].float().mean()) >= 0.75
    assert (calibration.p_values(7, range(7, 8))[:20] <= 0.05).all()
    assert ((cosines[7, 3, :20] > calibration.threshold[:20]) & (calibration.threshold[:20] > 0.2)).all()
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
        Calibration(cosines.amax(1), cosines.flatten(0, 1), alpha=0.0)


def test_a_sentence_has_every_place_that_shows_it() -> None:
    bounds = np.arange(11.0)
    cosines = torch.full((3, 10), 0.1)
    cosines[0, 1] = 0.9
    cosines[0, 7:9] = 0.8  # again later
    cosines[1, [3, 4]] = torch.tensor([0.9, 0.7])
    cosines[2, 5] = 0.3  # below the threshold
    found = torch.tensor([True, True, False])
    moments = place_sentences(
        ("a", "b", "c"), bounds, cosines, torch.full((3,), 0.5), found, torch.tensor([0.01, 0.02, 0.6])
    )
    assert [one.spans for one in moments] == [((1.0, 2.0), (7.0, 9.0)), ((3.0, 5.0),), ()]
    assert [(one.start, one.end, one.found) for one in moments] == [
        (1.0, 2.0, True),
        (3.0, 5.0, True),
        (5.0, 6.0, False),
    ]
    assert [one.score for one in moments] == pytest.approx([0.9, 0.9, 0.3]) and moments[2].p_value == pytest.approx(0.6)


def test_a_sentence_that_is_not_there_does_not_hold_the_others_back() -> None:
    cosines = torch.tensor([[0.1, 0.1, 0.1, 0.4], [0.9, 0.1, 0.1, 0.1]])  # the first would pull the second to the end
    moments = place_sentences(
        ("foreign", "there"), np.arange(5.0), cosines, torch.full((2,), 0.5), torch.tensor([False, True]), torch.ones(2)
    )
    assert moments[1].spans == ((0.0, 1.0),) and not moments[0].found


def test_a_sentence_is_found_by_the_company_of_the_others_and_noise_is_not() -> None:
    generator = np.random.default_rng(11)
    there, foreign = [], []
    for _ in range(300):
        cosines = torch.from_numpy(generator.normal(0.2, 0.02, (300, 8, 4)).astype(np.float32))
        cosines[5, [1, 3, 5], [0, 1, 2]] += 0.08  # three sentences, each weak, in one segment; the fourth is foreign
        calibration = Calibration(cosines.amax(1), cosines.flatten(0, 1))
        there.append(float((~calibration.nowhere[:3]).float().mean()))
        foreign.append(float(~calibration.nowhere[3]))
    assert np.mean(there) > 0.8 and np.mean(foreign) <= 0.14, (np.mean(there), np.mean(foreign))
