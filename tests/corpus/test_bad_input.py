"""Input that is wrong in every way of `problems.PROBLEM_KINDS`: counted with examples, or an error with `strict`.

Also that a build writes nothing outside its folder. Single lines are the matter of test_records.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from corpus_inputs import build, even_spans, rows_of, sentence, transcripts_of, video_row, write_lines

from lfvila_hf.corpus.problems import MAX_EXAMPLES, MAX_PLACES, PROBLEM_KINDS, ProblemLog

GOOD = video_row("good", even_spans(5))


def spoilt(kind: str) -> tuple[list[Any], list[Any], list[Any], str]:
    """Metadata, transcripts and selection with one problem of a kind, and what its example says."""
    videos: list[Any] = [GOOD, video_row("other", even_spans(6))]
    transcripts: list[Any] = transcripts_of(videos)
    selection: list[Any] = []
    if kind == "duplicate_video":
        videos.append(video_row("other", [(100, 110)], first=50))
        return videos, transcripts + transcripts_of(videos[2:]), selection, "other"
    example = spoil_metadata(kind, videos) or spoil_the_rest(kind, videos[1]["clip"], transcripts, selection)
    return videos, transcripts, selection, example


def spoil_metadata(kind: str, videos: list[Any]) -> str | None:
    """Put a problem of a kind into the metadata; what its example says, or `None` where it lies elsewhere."""
    clips = videos[1]["clip"]
    match kind:
        case "bad_json":
            videos.append(json.dumps(GOOD).encode()[:50])
            return '{"video_id": "good"'
        case "bad_video_id":
            videos.append({"video_id": "../../evil", "clip": []})
            return "../../evil"
        case "bad_clip_id":
            clips.append({"clip_id": "other/../../x.1.mp4", "span": ["00:00:00", "00:00:01"]})
            return "other/../../x.1.mp4"
        case "foreign_clip":
            clips.append({"clip_id": "good.17.mp4", "span": ["00:00:00", "00:00:01"]})
            return "good.17.mp4 in the row of other"
        case "bad_span":
            clips[5]["span"] = ["now", "then"]
            return "other.5.mp4"
        case "reversed_span":
            clips[5]["span"].reverse()
            return "other.5.mp4"
        case "beyond_file":
            videos[1]["duration"] = 30
            return "other.5.mp4 ends at 31 s of 30 s"
        case "overlapping_span":
            clips[5]["span"][0] = "00:00:22.000"
            return "other.5.mp4 begins at 22 s"
        case "duplicate_clip":
            clips.append(dict(clips[0]))
            return "other.0.mp4"
        case "conflicting_clip":
            clips.append({"clip_id": "other.5.mp4", "span": ["00:00:26", "00:00:27"]})
            return "other.5.mp4: 26-27 s, 26-31 s"
    return None


def spoil_the_rest(kind: str, clips: list[Any], transcripts: list[Any], selection: list[Any]) -> str:
    """Put a problem of a kind into transcripts or selection; what its example says."""
    listed = [clip["clip_id"] for clip in clips[:4]]
    match kind:
        case "bad_row":
            transcripts.append({"clip": 3})
            return "transcript without a clip_id"
        case "duplicate_transcript":
            transcripts.append(dict(transcripts[0]))
            return "good.0.mp4"
        case "conflicting_transcript":
            transcripts.append({"clip_id": "other.5.mp4", "text": "AAA something else."})
            return "other.5.mp4: AAA something else."
        case "transcript_without_clip":
            transcripts.append({"clip_id": "nowhere.0.mp4", "text": "Hi there."})
            return "nowhere.0.mp4"
        case "clip_without_transcript":
            transcripts.pop()
            return "other.5.mp4"
        case "unusable_text":
            transcripts[-1] = {**transcripts[-1], "text": "[Music] ..."}
            return "other.5.mp4: 0 letters in 3 characters"
        case "duplicate_selection":
            selection += [listed, listed]
            return "other.0.mp4 to other.3.mp4"
        case "mixed_selection":
            selection += [listed, [*listed, "good.0.mp4"]]
            return "other.0.mp4 together with clips of 1"
        case "incomplete_selection":
            selection += [listed, [*listed[:3], "other.77.mp4"]]
            return "1 of 4 clips cannot be used, such as other.77.mp4"
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_a_problem_is_counted_by_kind_with_an_example_and_a_place_or_with_strict_an_error(
    kind: str, tmp_path: Path
) -> None:
    videos, transcripts, selection, example = spoilt(kind)
    manifest = build(tmp_path, videos, transcripts, selection).manifest
    assert list(manifest["problems"]) == [kind]
    assert manifest["problems"][kind]["count"] == 1
    assert example in manifest["problems"][kind]["examples"][0]
    assert {row["video_id"] for row in rows_of(tmp_path / "corpus")} >= {"other"}
    (place,) = [json.loads(line) for line in (tmp_path / "corpus" / "problems.jsonl").read_text().splitlines()]
    file, line = place["place"].rsplit(":", 1)
    assert place["kind"] == kind
    assert 1 <= int(line) <= len(Path(file).read_bytes().splitlines())
    said = rf"the input has problems \(1 {kind}\); the first is {kind} at .*:\d+: "
    with pytest.raises(ValueError, match=said):
        build(tmp_path / "strict", videos, transcripts, selection, strict=True)
    assert [path.name for path in (tmp_path / "strict" / "corpus").iterdir()] == [".lock"]


def test_good_input_has_no_problem_and_passes_strict(tmp_path: Path) -> None:
    assert build(tmp_path, [GOOD], strict=True).manifest["problems"] == {}


def test_the_place_of_a_problem_is_its_line_also_in_later_chunks(tmp_path: Path) -> None:
    transcripts: list[Any] = transcripts_of([GOOD]) * 20
    transcripts[57] = b'{"clip_id": "good.0.mp4", "te'
    build(tmp_path, [GOOD], transcripts, chunk_bytes=300)
    places = [json.loads(line) for line in (tmp_path / "corpus" / "problems.jsonl").read_text().splitlines()]
    assert [row["place"] for row in places if row["kind"] == "bad_json"] == [f"{tmp_path / 'transcripts.jsonl'}:58"]


def test_nothing_is_written_outside_the_folder(tmp_path: Path) -> None:
    evil = ["../escape", "..", "/tmp/escape", "a/../../escape", "a\\..\\b", "C:\\escape", "~", "x\0y"]
    videos = [GOOD, *(video_row(name, even_spans(4)) for name in evil)]
    build(tmp_path / "inner", videos)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner"]
    inside = {path.name for path in (tmp_path / "inner").iterdir()}
    assert inside == {"corpus", "metadata.jsonl", "transcripts.jsonl"}
    assert {row["video_id"] for row in rows_of(tmp_path / "inner" / "corpus")} <= {"good", "~"}


def test_a_link_in_the_output_folder_is_not_followed(tmp_path: Path) -> None:
    precious = write_lines(tmp_path / "precious" / "train-00000-of-00001.parquet", [b"mine"])
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "data").symlink_to(precious.parent)
    build(tmp_path, [GOOD])
    assert precious.read_bytes() == b"mine\n"
    assert not (tmp_path / "corpus" / "data").is_symlink()


def test_logs_are_bounded_and_merge_to_the_same_in_any_order() -> None:
    logs = []
    for part in range(3):
        log = ProblemLog()
        for number in range(part, 3 * MAX_PLACES, 3):
            log.add("bad_row", f"detail {number:05d}", (number, 0))
        logs.append(log.as_dict())
    merged = []
    for order in ((0, 1, 2), (2, 0, 1)):
        whole = ProblemLog()
        for part in order:
            whole.merge(logs[part])
        merged.append(whole.as_dict())
    assert merged[0] == merged[1]
    assert merged[0]["counts"] == {"bad_row": 3 * MAX_PLACES}
    assert merged[0]["examples"]["bad_row"] == [f"detail {number:05d}" for number in range(MAX_EXAMPLES)]
    assert len(merged[0]["places"]["bad_row"]) == MAX_PLACES
    with pytest.raises(ValueError, match="the kind of a problem"):
        whole.add("odd", "", (0, 0))


def test_a_very_long_example_is_cut_and_can_be_written(tmp_path: Path) -> None:
    transcripts = [*transcripts_of([GOOD]), {"clip_id": "\ud800" * 5000, "text": sentence("x")}]
    manifest = build(tmp_path, [GOOD], transcripts).manifest
    (example,) = manifest["problems"]["bad_clip_id"]["examples"]
    assert len(example) <= 200
