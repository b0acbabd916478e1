"""Whatever the input, what comes out depends on the set of its lines alone, is contiguous, and loses nothing eligible.

`eligible` is worked out here a second time, line by line, from the rules that docs/corpus.md states.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from corpus_inputs import content_of, rows_of, write_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lfvila_hf.corpus.building import build_corpus
from lfvila_hf.corpus.contiguous_clips import JoinRules
from lfvila_hf.corpus.engines import LocalEngine
from lfvila_hf.corpus.plan import BuildParameters

VIDEOS = ["a", "b", "c-d", "e.f", "g", "../h"]


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Metadata and transcript lines: mostly runs of clips, with every kind of spoilt line among them."""
    random_ = draw(st.randoms(use_true_random=False))
    metadata: list[bytes] = []
    transcripts: list[bytes] = []
    for video in draw(st.lists(st.sampled_from(VIDEOS), min_size=2, max_size=8)):
        now, clips = random_.choice([0.0, 0.0, 7.5]), []
        for number in range(random_.randrange(4, 16)):
            now += random_.choice([0, 0, 0, 0, 0.4, 0.4, 1.0, 1.0, 1.001, 5, -0.05, -0.05, -2])
            length = random_.choice([1, 2, 2, 3, 3, 4, 4, 5, 5, -1])
            start = max(now, 0)
            clips.append({"clip_id": f"{video}.{number}.mp4", "span": [start, max(start + length, 0)]})
            now = start + max(length, 0)
            if random_.random() < 0.95:
                text = (
                    f"words of {video} number {number}"
                    if random_.random() < 0.9
                    else random_.choice(["[Music]", "1 2 3", "word"])
                )
                transcripts.append(json.dumps({"clip_id": clips[-1]["clip_id"], "text": text}).encode())
        row = {"video_id": video, "clip": clips, "url": random_.choice(["", "u1", "u2"])}
        if random_.random() < 0.2:
            row["duration"] = 20
        line = json.dumps(row).encode()
        metadata.append(line if random_.random() < 0.95 else line[:-5])
    return metadata, transcripts


def build_lines(
    folder: Path, metadata: list[list[bytes]], transcripts: list[list[bytes]], **options: Any
) -> Path | None:
    """Build from these files of lines; `None` where no row comes out."""
    given_files = {}
    for kind, files in (("m", metadata), ("t", transcripts)):
        given_files[kind] = [write_lines(folder / f"{kind}{number}.jsonl", lines) for number, lines in enumerate(files)]
    try:
        build_corpus(
            folder / "corpus", metadata=given_files["m"], transcripts=given_files["t"], engine=LocalEngine(1), **options
        )
    except ValueError as error:
        assert "no long-form row came out" in str(error)
        return None
    return folder / "corpus"


def eligible_spans(metadata: list[bytes], transcripts: list[bytes]) -> dict[str, tuple[int, int]]:
    """Clips with exactly one span inside the video and exactly one usable text, in milliseconds."""
    spans: dict[str, set[tuple[int, int]]] = defaultdict(set)
    durations: dict[str, float] = {}
    for line in metadata:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["video_id"] == "../h":
            continue
        if "duration" in row:
            durations[row["video_id"]] = row["duration"]
        for clip in row["clip"]:
            start, end = (round(second * 1000) for second in clip["span"])
            if end > start:
                spans[clip["clip_id"]].add((start, end))
    texts: dict[str, set[str]] = defaultdict(set)
    for line in transcripts:
        row = json.loads(line)
        texts[row["clip_id"]].add(row["text"])
    found = {}
    for clip_id, both in spans.items():
        text = texts[clip_id]
        usable = len(text) == 1 and next(iter(text)).startswith("word")
        limit = durations.get(clip_id.rsplit(".", 2)[0], 1e9) * 1000 + 500
        if len(both) == 1 and usable and next(iter(both))[1] <= limit:
            found[clip_id] = next(iter(both))
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    corpora(),
    st.sampled_from(
        [
            BuildParameters(near_duplicates="mark"),
            BuildParameters(near_duplicates="mark", join=JoinRules(min_clips=2, max_clips=3, overlaps="drop")),
        ]
    ),
)
def test_rows_are_contiguous_and_hold_every_eligible_clip_of_a_long_enough_run(
    corpus: tuple[list[bytes], list[bytes]], parameters: BuildParameters
) -> None:
    metadata, transcripts = corpus
    eligible = eligible_spans(metadata, transcripts)
    with tempfile.TemporaryDirectory() as name:
        output = build_lines(Path(name), [metadata], [transcripts], parameters=parameters)
        rows = rows_of(output) if output else []
        counts = json.loads((output / "manifest.json").read_text())["counts"] if output else None
    used = [clip_id for row in rows for clip_id in row["clip_ids"]]
    assert len(used) == len(set(used))
    assert set(used) <= set(eligible)
    if counts is not None:
        assert counts["eligible_clips"] == len(eligible)
        rest = ("clips_in_short_runs", "clips_cut_off_by_bounds", "clips_dropped_for_overlap")
        assert len(used) + sum(counts[name] for name in rest) == len(eligible)
    rules = parameters.join
    for row in rows:
        assert {clip_id.rsplit(".", 2)[0] for clip_id in row["clip_ids"]} == {row["video_id"]}
        assert rules.min_clips <= row["num_clips"] <= (rules.max_clips or 10**9)
        times = [eligible[clip_id] for clip_id in row["clip_ids"]]
        assert [(start / 1000, end / 1000) for start, end in times] == list(
            zip(row["starts"], row["ends"], strict=True)
        )
        assert times == sorted(times)
        for (_, end), (start, _) in zip(times, times[1:], strict=False):
            assert -rules.overlap_ms <= start - end <= rules.gap_ms
    # Nothing that could have been in a row is missing: no run of the eligible clips left over is long enough.
    if rules.overlaps == "split":
        for video in {clip_id.rsplit(".", 2)[0] for clip_id in eligible}:
            run = end = 0
            for start, stop, clip_id in sorted(
                (*span, c) for c, span in eligible.items() if c.rsplit(".", 2)[0] == video
            ):
                follows = -rules.overlap_ms <= start - end <= rules.gap_ms
                run = run + 1 if run and follows else 1
                end = max(end, stop) if run > 1 else stop
                assert run < rules.min_clips or clip_id in used


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(corpora(), st.integers(0, 10**6))
def test_the_output_depends_on_the_set_of_lines_and_on_nothing_else(
    corpus: tuple[list[bytes], list[bytes]], seed: int
) -> None:
    metadata, transcripts = corpus
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        first = build_lines(Path(name) / "1", [metadata], [transcripts])
        shuffled = []
        for lines in (metadata, transcripts):
            lines = draw.sample(lines, len(lines))
            cuts = sorted(draw.randrange(len(lines) + 1) for _ in range(3))
            shuffled.append([lines[start:end] for start, end in zip([0, *cuts], [*cuts, len(lines)], strict=True)])
        second = build_lines(Path(name) / "2", *shuffled, chunk_bytes=draw.choice([50, 333, 10_000]))
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            assert content_of(first) == content_of(second)


def test_the_drawn_corpora_have_rows() -> None:
    """The properties above would hold for builds that give nothing."""
    rows = []

    @settings(max_examples=20, deadline=None, database=None, derandomize=True)
    @given(corpora())
    def collect(corpus: tuple[list[bytes], list[bytes]]) -> None:
        with tempfile.TemporaryDirectory() as name:
            output = build_lines(Path(name), [corpus[0]], [corpus[1]])
            rows.extend(rows_of(output) if output else [])

    collect()
    assert len(rows) > 5
