"""Annotation files: what rows become, which file a `clip_id` is, and errors that name file and line.

Decoding is tested in `test_datasets`, the policy for skipped rows by itself in `test_skipping`.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from small_corpus import write_json_lines

from lfvila_hf.data.annotations import AnnotationError, load_pretraining, load_retrieval, resolve_video
from lfvila_hf.data.skipping import SkipLog


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Empty files under the names of videos: nothing here decodes."""
    root = tmp_path / "videos"
    for name in ("v_a.mp4", "v_b.mkv", "v_c.AVI", "sub/v_d.mp4", "v.1.mp4", "w/w.0.mp4", "w/w.1.mp4", "w/w.2.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def rows_without(dataset: Any, *columns: str) -> list[dict[str, Any]]:
    return [{name: row[name] for name in row if name not in columns and row[name] is not None} for row in dataset]


# -- rows ------------------------------------------------------------------------------------------------------------


def test_retrieval_rows_hold_the_path_the_sentences_and_every_other_field(tmp_path: Path, videos: Path) -> None:
    path = write_json_lines(
        tmp_path / "rows.jsonl",
        [
            {
                "clip_id": "v_a",
                "text": ["One.", "Two."],
                "twin_of": None,
                "seconds": [0.0, 1.5],
                "events": [{"a": 1}],
            },
            {"clip_id": "v_b", "text": "Only one.", "twin_of": "v_a", "seconds": [0.0], "events": []},
        ],
    )
    dataset = load_retrieval(path, videos)
    assert dataset[0] == {
        "id": "v_a",
        "video": str(videos / "v_a.mp4"),
        "sentences": ["One.", "Two."],
        "place": f"{path}:1",
        "twin_of": None,
        "seconds": [0.0, 1.5],
        "events": [{"a": 1}],
    }
    assert dataset[1]["sentences"] == ["Only one."]
    assert dataset[1]["video"] == str(videos / "v_b.mkv")
    assert dataset[1]["twin_of"] == "v_a"


def test_pretraining_rows_hold_the_clips_of_one_long_video_in_order(tmp_path: Path, videos: Path) -> None:
    row = [{"clip_id": f"w.{clip}.mp4", "text": f"Clip {clip}."} for clip in range(3)]
    dataset = load_pretraining(write_json_lines(tmp_path / "rows.jsonl", [row]), videos)
    assert dataset.num_rows == 1
    assert dataset[0]["id"] == "w"
    assert dataset[0]["clips"] == [str(videos / "w" / f"w.{clip}.mp4") for clip in range(3)]
    assert dataset[0]["sentences"] == ["Clip 0.", "Clip 1.", "Clip 2."]


def test_a_video_name_with_dots_keeps_them_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.b.c").mkdir()
    (tmp_path / "a.b.c" / "a.b.c.12.mp4").touch()
    path = write_json_lines(tmp_path / "rows.jsonl", [[{"clip_id": "a.b.c.12.mp4", "text": "One."}]])
    assert load_pretraining(path, tmp_path)[0]["id"] == "a.b.c"


def test_blank_lines_and_a_byte_order_mark_are_no_rows_and_lines_are_counted_all_the_same(
    tmp_path: Path, videos: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    row = json.dumps({"clip_id": "v_a", "text": "Zürich."}, ensure_ascii=False)
    path.write_bytes(f"\ufeff{row}\n\n  \n{row}\n".encode())
    dataset = load_retrieval(path, videos)
    assert dataset["place"][:] == [f"{path}:1", f"{path}:4"]
    assert dataset[0]["sentences"] == ["Zürich."]


def test_a_field_with_values_of_several_types_is_kept_as_json_text(
    tmp_path: Path, videos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"clip_id": "v_a", "text": "A.", "odd": 3}, {"clip_id": "v_b", "text": "B.", "odd": {"x": [1]}}]
    dataset = load_retrieval(write_json_lines(tmp_path / "rows.jsonl", rows), videos)
    assert [json.loads(value) for value in dataset["odd"]] == [3, {"x": [1]}]
    assert "odd" in caplog.text


def test_several_files_and_patterns_are_read_one_after_the_other(tmp_path: Path, videos: Path) -> None:
    for number, name in enumerate(["v_a", "v_b", "v_c"]):
        write_json_lines(tmp_path / f"rows-{number}.jsonl", [{"clip_id": name, "text": "A."}])
    assert load_retrieval(tmp_path / "rows-*.jsonl", videos)["id"][:] == ["v_a", "v_b", "v_c"]
    chosen = load_retrieval([tmp_path / "rows-2.jsonl", tmp_path / "rows-0.jsonl"], videos)
    assert chosen["id"][:] == ["v_c", "v_a"]


def test_a_stream_gives_the_rows_of_the_map_style_data_set(tmp_path: Path, videos: Path) -> None:
    for number, name in enumerate(["v_a", "v_b"]):
        write_json_lines(tmp_path / f"r-{number}.jsonl", [{"clip_id": name, "text": ["A.", "B."], "n": number}])
    row = [{"clip_id": f"w.{clip}.mp4", "text": f"Clip {clip}."} for clip in range(3)]
    write_json_lines(tmp_path / "p.jsonl", [row, row[1:]])
    for load, path in ((load_retrieval, tmp_path / "r-*.jsonl"), (load_pretraining, tmp_path / "p.jsonl")):
        stream = load(path, videos, streaming=True)
        assert list(stream) == list(load(path, videos))
        assert len(list(stream)) == 2
    assert load_retrieval(tmp_path / "r-*.jsonl", videos, streaming=True).num_shards == 2


# -- which file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("v_a", "v_a.mp4"),
        ("v_a.mp4", "v_a.mp4"),
        ("v_b", "v_b.mkv"),
        ("v_c", "v_c.AVI"),
        ("v.1", "v.1.mp4"),
        ("sub/v_d", "sub/v_d.mp4"),
    ],
)
def test_a_clip_id_finds_its_file(videos: Path, name: str, file: str) -> None:
    assert resolve_video(str(videos), name, "x:1") == str(videos / file)


def test_without_looking_a_clip_id_gets_the_released_ending(videos: Path) -> None:
    assert resolve_video(str(videos), "v_b", "x:1", check_file=False) == str(videos / "v_b.mp4")
    assert resolve_video("hf://datasets/a/b", "v_b", "x:1") == "hf://datasets/a/b/v_b.mp4"


@pytest.mark.parametrize("name", ["../v_a", "sub/../../v_a", "/etc/passwd", "..\\v_a", "C:\\v_a", "", "v\0a", "sub/.."])
def test_a_clip_id_cannot_leave_the_root(videos: Path, name: str) -> None:
    with pytest.raises(AnnotationError, match="x:1: .*no name of a video inside"):
        resolve_video(str(videos), name, "x:1")


def test_two_files_that_fit_a_clip_id_are_an_error(videos: Path) -> None:
    (videos / "v_b.webm").touch()
    with pytest.raises(AnnotationError, match=r"any of .*v_b\.mkv, .*v_b\.webm"):
        resolve_video(str(videos), "v_b", "x:1")


# -- rows that cannot be used ----------------------------------------------------------------------------------------

GOOD_RETRIEVAL = {"clip_id": "v_a", "text": ["One."]}
GOOD_CLIP = {"clip_id": "w.0.mp4", "text": "One."}
BAD_RETRIEVAL: dict[str, tuple[Any, str]] = {
    "no object": ([1, 2], "expected a JSON object"),
    "no clip_id": ({"text": "A."}, "'clip_id' is missing; the row has"),
    "no text": ({"clip_id": "v_a"}, "'text' is missing"),
    "clip_id of a wrong type": ({"clip_id": 7, "text": "A."}, "'clip_id' must be string, got 7"),
    "text of a wrong type": ({"clip_id": "v_a", "text": {"a": 1}}, "'text' must be string or list"),
    "text that is true": ({"clip_id": "v_a", "text": True}, "'text' must be string or list, got true"),
    "no sentence": ({"clip_id": "v_a", "text": []}, "an empty list"),
    "an empty text": ({"clip_id": "v_a", "text": " "}, "'text' is empty"),
    "an empty sentence": ({"clip_id": "v_a", "text": ["A.", ""]}, "sentence 1 of 'text' is empty"),
    "a sentence of a wrong type": ({"clip_id": "v_a", "text": ["A.", None]}, "sentence 1 of 'text' must be a string"),
    "a missing video": ({"clip_id": "v_z", "text": "A."}, r"there is no file .*v_z\.mp4"),
    "a video outside": ({"clip_id": "../v_a", "text": "A."}, "inside"),
    "a field named as a column": ({"clip_id": "v_a", "text": "A.", "video": 1}, "'video' has the name of a column"),
}
BAD_PRETRAINING: dict[str, tuple[Any, str]] = {
    "no list": (GOOD_CLIP, "expected a list of clips"),
    "no clip": ([], "expected a list of clips"),
    "a clip that is no object": (["w.0.mp4"], "expected a JSON object"),
    "a clip without a number": ([{"clip_id": "w.mp4", "text": "A."}], "must look like 'VIDEO.3.mp4', got 'w.mp4'"),
    "a clip with a list": ([{"clip_id": "w.0.mp4", "text": ["A."]}], "'text' must be string"),
    "an empty text": ([GOOD_CLIP, {"clip_id": "w.1.mp4", "text": ""}], "'text' is empty"),
    "a missing clip": ([GOOD_CLIP, {"clip_id": "w.9.mp4", "text": "A."}], r"there is no file .*w\.9\.mp4"),
    "a clip outside": ([{"clip_id": "../w.0.mp4", "text": "A."}], "inside"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", BAD_RETRIEVAL)
def test_a_retrieval_row_that_cannot_be_used_is_named_by_file_and_line(
    tmp_path: Path, videos: Path, case: str, streaming: bool
) -> None:
    row, reason = BAD_RETRIEVAL[case]
    path = write_json_lines(tmp_path / "rows.jsonl", [GOOD_RETRIEVAL, row])
    with pytest.raises(AnnotationError, match=rf"rows\.jsonl:2: .*{reason}"):
        list(load_retrieval(path, videos, streaming=streaming))


@pytest.mark.parametrize("case", BAD_PRETRAINING)
def test_a_pretraining_row_that_cannot_be_used_is_named_by_file_and_line(
    tmp_path: Path, videos: Path, case: str
) -> None:
    row, reason = BAD_PRETRAINING[case]
    path = write_json_lines(tmp_path / "rows.jsonl", [[GOOD_CLIP], row])
    with pytest.raises(AnnotationError, match=rf"rows\.jsonl:2: .*{reason}"):
        load_pretraining(path, videos)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{'clip_id': 'v_a', 'text': 'A.'}", "not JSON"),
        (b"__import__('os').system('true')", "not JSON"),
        (b'{"clip_id": "v_a", "text": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON|nested too deep"),
    ],
)
def test_a_line_is_json_and_nothing_else(tmp_path: Path, videos: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD_RETRIEVAL).encode() + b"\n" + line + b"\n")
    with pytest.raises(AnnotationError, match=rf"rows\.jsonl:2: ({reason})"):
        load_retrieval(path, videos)


def test_a_missing_or_empty_annotation_file_is_an_error_that_names_it(tmp_path: Path, videos: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no annotation file .*nowhere\.jsonl"):
        load_retrieval(tmp_path / "nowhere.jsonl", videos)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"empty\.jsonl: no usable row"):
        load_retrieval(tmp_path / "empty.jsonl", videos)


def test_skipped_rows_are_left_out_counted_and_reported(tmp_path: Path, videos: Path) -> None:
    path = write_json_lines(tmp_path / "rows.jsonl", [GOOD_RETRIEVAL, {"clip_id": "v_z", "text": "A."}, 3])
    skips = SkipLog("skip", max_skip_fraction=0.7)
    assert load_retrieval(path, videos, skips=skips)["id"][:] == ["v_a"]
    report = skips.report()
    assert report.total == 3
    assert [(one.sample, one.place) for one in report.skipped] == [("v_z", f"{path}:2"), ("?", f"{path}:3")]
    assert "there is no file" in report.skipped[0].reason

    streamed = SkipLog("skip", max_skip_fraction=0.7)
    assert [row["id"] for row in load_retrieval(path, videos, streaming=True, skips=streamed)] == ["v_a"]
    assert streamed.report().skipped == report.skipped


def test_more_skipped_rows_than_the_ceiling_are_an_error(tmp_path: Path, videos: Path) -> None:
    rows = [GOOD_RETRIEVAL] * 8 + [{"clip_id": "v_z", "text": "A."}] * 2
    path = write_json_lines(tmp_path / "rows.jsonl", rows)
    assert load_retrieval(path, videos, skips=SkipLog("skip", max_skip_fraction=0.2)).num_rows == 8
    with pytest.raises(ValueError, match=r"2 of 10 samples .* max_skip_fraction=0\.1 .*rows\.jsonl:10"):
        load_retrieval(path, videos, skips=SkipLog("skip", max_skip_fraction=0.1))


def test_an_annotation_error_crosses_process_borders() -> None:
    error = AnnotationError("rows.jsonl:2", "no text")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.place, copy.reason) == ("rows.jsonl:2: no text", "rows.jsonl:2", "no text")
    assert str(AnnotationError("Caught AnnotationError in worker 0")) == "Caught AnnotationError in worker 0"
