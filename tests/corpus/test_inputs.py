"""Input files as chunks, the three layouts line by line, and intermediate files: what is read and what is refused.

What becomes of refused lines in a build is in test_bad_input.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus_inputs import write_lines
from hypothesis import given
from hypothesis import strategies as st

from lfvila_hf.corpus import inputs
from lfvila_hf.corpus.inputs import (
    RecordProblem,
    checked_video_id,
    clip_number,
    clock,
    find_files,
    parse_json_line,
    parse_time,
    plan_chunks,
    read_chunk,
    read_selection,
    read_transcript,
    read_video,
    split_draw,
    video_key,
    video_of_clip,
)
from lfvila_hf.corpus.intermediate_files import read_part, split_by_range, write_parts
from lfvila_hf.corpus.problems import PROBLEM_KINDS

README_ROW = {
    "video_id": "QMi8x8o55Ns",
    "url": "https://www.youtube.com/watch?v=QMi8x8o55Ns",
    "clip": [{"clip_id": "QMi8x8o55Ns.1.mp4", "span": ["00:00:17.759", "00:00:23.279"]}],
}


def test_a_row_of_the_released_metadata_is_read() -> None:
    video, problems = read_video(README_ROW)
    assert not problems
    assert video.video_id == "QMi8x8o55Ns"
    assert video.clips == [("QMi8x8o55Ns.1.mp4", 17_759, 23_279, None)]
    assert video.duration is None


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("00:00:17.759", 17_759),
        ("01:02:03", 3_723_000),
        ("02:03.5", 123_500),
        ("12.25", 12_250),
        (7, 7000),
        (0.0004, 0),
    ],
)
def test_times_are_read_to_the_millisecond(text: str | float, milliseconds: int) -> None:
    assert parse_time(text) == milliseconds


@pytest.mark.parametrize(
    "value",
    ["", "-1", "00:61:00", "00:00:75", "1e5", "nan", float("nan"), float("inf"), -1, None, True, [], "١٢", "1:2:3:4"],
)
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_time(value)


@given(st.integers(0, 99 * 3600 * 1000))
def test_clock_and_parse_time_are_inverse(milliseconds: int) -> None:
    assert parse_time(clock(milliseconds)) == milliseconds


PLAIN_NAMES = ["-abc_DEF123", "a b", "ü", "v_x.y", "0", "日本", "x" * 200, "a..b", "And then... it broke", "Wait..."]
PLAIN_NAMES += ['What? "Yes": a | b * <c>']


@pytest.mark.parametrize("video_id", PLAIN_NAMES)
def test_file_names_are_video_ids(video_id: str) -> None:
    assert checked_video_id(video_id) == video_id
    assert video_of_clip(f"{video_id}.12.mp4") == video_id


BAD_NAMES = ["", ".", "..", "a/b", "a\\b", "/a", "../a", ".a", " a", "a ", "a\0b", "a\nb", "C:a", "x" * 201, "\ud800"]


@pytest.mark.parametrize("video_id", [*BAD_NAMES, "ü" * 101])
def test_an_id_that_is_no_file_name_is_refused(video_id: str) -> None:
    with pytest.raises(RecordProblem) as caught:
        checked_video_id(video_id)
    assert caught.value.kind == "bad_video_id"
    with pytest.raises(RecordProblem) as caught:
        video_of_clip(f"{video_id}.1.mp4")
    assert caught.value.kind == "bad_clip_id"


@pytest.mark.parametrize(
    "clip_id", ["a.mp4", "a.1", "a.x.mp4", "a.1.exe", "a.-1.mp4", "a.1.mp4/..", "a.²..mp4", "a.٣.mp4"]
)
def test_a_clip_id_needs_a_video_a_number_and_an_ending(clip_id: str) -> None:
    with pytest.raises(RecordProblem) as caught:
        video_of_clip(clip_id)
    assert caught.value.kind == "bad_clip_id"


def test_a_clip_id_may_have_dots_in_its_video() -> None:
    assert video_of_clip("v_1.2.3.mp4") == "v_1.2"
    assert clip_number("v_1.2.3.mp4") == 3


@pytest.mark.parametrize(
    ("span", "kind"),
    [
        (["00:00:09", "00:00:05"], "reversed_span"),
        (["00:00:05", "00:00:05"], "reversed_span"),
        (["00:00:05"], "bad_span"),
        ("00:00:05", "bad_span"),
        (None, "bad_span"),
        (["soon", "later"], "bad_span"),
    ],
)
def test_a_bad_span_leaves_the_clip_known_and_useless(span: object, kind: str) -> None:
    video, problems = read_video({"video_id": "v", "clip": [{"clip_id": "v.1.mp4", "span": span}]})
    assert [problem.kind for problem in problems] == [kind]
    assert video.clips == [("v.1.mp4", -1, -1, None)]


REFUSED = [(read_video, row, "bad_row") for row in ([], {"clip": []}, {"video_id": 3, "clip": []}, {"video_id": "v"})]
REFUSED += [(read_video, {"video_id": "v", "clip": {}}, "bad_row")]
REFUSED += [(read_video, {"video_id": "v", "clip": [], "duration": "long"}, "bad_row")]
REFUSED += [(read_video, {"video_id": "../v", "clip": []}, "bad_video_id")]
REFUSED += [(read_selection, row, "bad_row") for row in ([], {}, [1])]
REFUSED += [(read_selection, ["v.1.mp4", "w.1.mp4"], "mixed_selection"), (read_selection, ["a/b.1.mp4"], "bad_clip_id")]
REFUSED += [(read_transcript, row, "bad_row") for row in (3, {"clip_id": 1, "text": ""}, {"clip_id": "v.1.mp4"})]
REFUSED += [(read_transcript, {"clip_id": "v.1.mp4", "text": None}, "bad_row")]
CUT_LINES = [b'{"video_id": "v", "cl', b"\xff\xfe", b"{'a': 1}", b"[" * 100_000]
REFUSED += [(parse_json_line, line, "bad_json") for line in CUT_LINES]


@pytest.mark.parametrize(("read", "row", "kind"), REFUSED)
def test_a_row_of_another_layout_is_refused(read: Any, row: object, kind: str) -> None:
    with pytest.raises(RecordProblem) as caught:
        read(row)
    assert caught.value.kind == kind


def test_one_bad_clip_does_not_cost_the_others() -> None:
    good = {"clip_id": "v.2.mp4", "span": [1, 2]}
    bad = [
        {"clip_id": "w.1.mp4", "span": [1, 2]},
        7,
        {"clip_id": "../v.1.mp4"},
        {"clip_id": "v.3.mp4", "span": [1, 2], "text": 5},
    ]
    video, problems = read_video({"video_id": "v", "clip": [*bad, good]})
    assert [problem.kind for problem in problems] == ["foreign_clip", "bad_row", "bad_clip_id", "bad_row"]
    assert [clip.clip_id for clip in video.clips] == ["v.3.mp4", "v.2.mp4"]


def test_transcripts_and_selections_are_read() -> None:
    assert read_transcript({"clip_id": "v.1.mp4", "text": "Hi."}) == ("v", "v.1.mp4", "Hi.")
    assert read_selection(["v.1.mp4", "v.2.mp4"]) == ("v", ["v.1.mp4", "v.2.mp4"])
    assert read_selection([{"clip_id": "v.1.mp4"}]) == ("v", ["v.1.mp4"])
    assert read_selection({"clip_id": ["v.1.mp4"]}) == ("v", ["v.1.mp4"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["video_id", "clip_id", "clip", "span", "text", "duration"]), inner)
        ),
    )
)
def test_whatever_a_line_holds_is_read_or_refused_by_a_known_kind(value: object) -> None:
    for read in (read_video, read_transcript, read_selection):
        try:
            answer = read(value)
        except RecordProblem as problem:
            assert problem.kind in PROBLEM_KINDS
        else:
            assert answer


def test_keys_and_draws_are_those_of_every_other_day() -> None:
    """The order of a corpus and its split rest on these numbers."""
    assert video_key("QMi8x8o55Ns") == 3552003625976963080
    assert split_draw("QMi8x8o55Ns", 0) == 0.3471776988167309
    assert split_draw("QMi8x8o55Ns", 1) != split_draw("QMi8x8o55Ns", 0)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [1, 3, 7, 64, 10_000])
def test_chunks_hold_every_line_once(chunk_bytes: int, tmp_path: Path) -> None:
    lines = [b"one\n", b"\n", b"three is longer\n", b"\n", b"five", b""]
    path = tmp_path / "lines.txt"
    path.write_bytes(b"".join(lines))
    (tmp_path / "empty.txt").touch()
    chunks = plan_chunks([str(path), str(tmp_path / "empty.txt")], "metadata", chunk_bytes)
    assert [line for chunk in chunks for line in read_chunk(chunk)] == lines[:5]


def test_a_line_without_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_LINE_BYTES", 100)
    path = write_lines(tmp_path / "x.jsonl", [b"x" * 500])
    with pytest.raises(ValueError, match="has a line of more than 100 bytes"):
        list(read_chunk(plan_chunks([str(path)], "metadata", 1000)[0]))


def test_inputs_are_files_folders_and_patterns_each_once(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.jsonl.gz", "notes.txt"):
        (tmp_path / name).touch()
    found = find_files([tmp_path, tmp_path / "a.jsonl", str(tmp_path / "*.gz")])
    assert [Path(path).name for path in found] == ["a.jsonl", "b.jsonl", "c.jsonl.gz"]


def test_an_intermediate_file_gives_its_parts_back_and_knows_when_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.parts"
    write_parts(path, [b"one", b"", b"three"])
    assert [read_part(path, part) for part in range(3)] == [b"one", b"", b"three"]
    with pytest.raises(ValueError, match="has the parts 0 to 2, not 3"):
        read_part(path, 3)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is cut off"):
        read_part(path, 2)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is no intermediate file"):
        read_part(path, 0)


def test_ranges_of_keys_hold_every_key_once() -> None:
    keys = np.sort(np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64))
    parts = [np.frombuffer(part, np.uint64) for part in split_by_range(keys, keys, 7)]
    assert (np.concatenate(parts) == keys).all()
    assert all(int(key) * 7 >> 64 == number for number, part in enumerate(parts) for key in part)
