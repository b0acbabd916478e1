"""A build from end to end: which rows come out, in which files, and who can read them.

Properties over drawn corpora are in test_build_properties.py, the Ray engine in test_engines.py, wrong input in
test_bad_input.py.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from corpus_inputs import build, content_of, even_spans, rows_of, sentence, transcripts_of, video_row, write_lines

from lfvila_hf.corpus.building import build_corpus
from lfvila_hf.corpus.contiguous_clips import JoinRules
from lfvila_hf.corpus.cutting import CutParameters
from lfvila_hf.corpus.engines import LocalEngine, make_engine
from lfvila_hf.corpus.from_subtitles import SentenceRules
from lfvila_hf.corpus.inputs import Chunk, count_bytes, read_chunk, split_draw
from lfvila_hf.corpus.output_folders import LOCK, MANIFEST, locked, new_corpus
from lfvila_hf.corpus.plan import BuildParameters
from lfvila_hf.corpus.text import TextRules


def many_videos(count: int, clips: int = 5) -> list[dict[str, Any]]:
    return [video_row(f"video{number:04d}", even_spans(clips), category=f"c{number % 3}") for number in range(count)]


def test_clips_contiguous_in_time_become_one_row(tmp_path: Path) -> None:
    spans = [*even_spans(5), *even_spans(4, start=100), *even_spans(3, start=300)]
    manifest = build(tmp_path, [video_row("v", spans, category="Travel")]).manifest
    rows = sorted(rows_of(tmp_path / "corpus"), key=lambda row: row["starts"])
    assert [row["id"] for row in rows] == ["v.0-4", "v.5-8"]
    assert rows[1]["clip_ids"] == [f"v.{number}.mp4" for number in (5, 6, 7, 8)]
    assert rows[1]["starts"] == pytest.approx([100, 105.2, 110.4, 115.6])
    assert rows[1]["texts"] == [sentence(clip_id) for clip_id in rows[1]["clip_ids"]]
    assert rows[1]["num_clips"] == 4
    assert rows[1]["num_words"] == 48
    assert rows[1]["seconds"] == pytest.approx(20.6)
    assert rows[1]["category"] == "Travel"
    assert rows[1]["url"] == "https://example.org/v"
    assert manifest["counts"]["clips_in_short_runs"] == 3
    assert manifest["source"]["clips"] == 12
    assert manifest["source"]["seconds_per_clip"] == 5
    assert manifest["source"]["words_per_clip"] == 12
    assert manifest["rows"]["clips_per_row"] == {"4": 1, "5": 1}
    assert manifest["rows"]["gaps"]["max"] == pytest.approx(0.2)
    assert manifest["splits"]["train"]["clips"] == 9


def test_the_transcript_may_stand_in_the_metadata(tmp_path: Path) -> None:
    row = video_row("v", even_spans(4))
    for clip in row["clip"]:
        clip["text"] = sentence(clip["clip_id"])
    result = build_corpus(
        tmp_path / "corpus", metadata=[write_lines(tmp_path / "m.jsonl", [row])], engine=LocalEngine(1)
    )
    assert result.manifest["problems"] == {}
    assert rows_of(tmp_path / "corpus")[0]["texts"] == [clip["text"] for clip in row["clip"]]


def test_the_published_clip_ids_decide_about_the_rows(tmp_path: Path) -> None:
    videos = [video_row("v", [*even_spans(9), (60, 65)]), video_row("w", even_spans(5)), video_row("x", even_spans(5))]
    ids = [[f"v.{n}.mp4" for n in numbers] for numbers in ([0, 1, 2, 3], [4, 5, 6, 7, 8], [3, 8, 9])]
    ids.append([f"w.{n}.mp4" for n in range(5)])
    manifest = build(tmp_path, videos, selection=ids).manifest
    rows = rows_of(tmp_path / "corpus")
    assert sorted(row["clip_ids"] for row in rows) == sorted(ids)
    assert manifest["selection"] == {"listed": 4, "out_of_order": 0, "also_built": 1}
    assert manifest["rows"]["gaps"]["max"] > 10
    assert manifest["problems"] == {}


def test_a_selection_out_of_order_is_reproduced_and_counted(tmp_path: Path) -> None:
    ids = ["v.2.mp4", "v.0.mp4", "v.1.mp4", "v.3.mp4"]
    manifest = build(tmp_path, [video_row("v", even_spans(4))], selection=[ids]).manifest
    assert rows_of(tmp_path / "corpus")[0]["clip_ids"] == ids
    assert manifest["selection"]["out_of_order"] == 1


def test_two_listed_rows_between_the_same_clips_get_two_names(tmp_path: Path) -> None:
    ids = [["v.0.mp4", "v.1.mp4", "v.3.mp4"], ["v.0.mp4", "v.2.mp4", "v.3.mp4"]]
    parameters = BuildParameters(near_duplicates="off")
    build(tmp_path, [video_row("v", even_spans(4))], selection=ids, parameters=parameters)
    assert {row["id"] for row in rows_of(tmp_path / "corpus")} == {"v.0-3", "v.0-3~2"}


def test_all_rows_of_a_video_are_in_the_split_of_its_id(tmp_path: Path) -> None:
    videos = [video_row(f"v{n}", [*even_spans(4), *even_spans(4, start=100)]) for n in range(300)]
    parameters = BuildParameters(validation=0.2, test=0.1, split_seed=7)
    splits = build(tmp_path, videos, parameters=parameters).manifest["splits"]
    rows = rows_of(tmp_path / "corpus")
    by_video: dict[str, set[str]] = {}
    for row in rows:
        by_video.setdefault(row["video_id"], set()).add(row["split"])
        draw = split_draw(row["video_id"], 7)
        assert row["split"] == ("test" if draw < 0.1 else "validation" if draw < 0.1 + 0.2 else "train")
    assert all(len(found) == 1 for found in by_video.values())
    assert 15 < splits["test"]["videos"] < 45 < splits["validation"]["videos"] < 80
    assert sum(split["rows"] for split in splits.values()) == len(rows) == 600


@pytest.fixture
def repeating(tmp_path: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]], dict[str, str]]:
    """Forty videos of which each odd one says what the even one before it says; and the split of each."""
    videos = many_videos(40)
    texts = {clip["clip_id"]: clip["text"] for clip in transcripts_of(videos)}
    for number in range(1, 40, 2):
        for clip in range(5):
            texts[f"video{number:04d}.{clip}.mp4"] = texts[f"video{number - 1:04d}.{clip}.mp4"]
    splits = {}
    for video in videos:
        splits[video["video_id"]] = "test" if split_draw(video["video_id"], 0) < 0.4 else "train"
    return videos, [{"clip_id": clip_id, "text": text} for clip_id, text in texts.items()], splits


@pytest.mark.parametrize("policy", ["mark", "leaks", "drop", "off"])
def test_near_duplicates_are_found_and_treated_as_asked(
    policy: Any, repeating: tuple[list[dict[str, Any]], list[dict[str, str]], dict[str, str]], tmp_path: Path
) -> None:
    videos, transcripts, splits = repeating
    parameters = BuildParameters(validation=0, test=0.4, near_duplicates=policy)
    manifest = build(tmp_path, videos, transcripts, parameters=parameters).manifest
    rows = {row["video_id"]: row for row in rows_of(tmp_path / "corpus")}
    pairs = [(f"video{n:04d}", f"video{n + 1:04d}") for n in range(0, 40, 2)]
    across = [pair for pair in pairs if splits[pair[0]] != splits[pair[1]]]
    assert 3 < len(across) < 17
    left_out = {"mark": 0, "leaks": len(across), "drop": 20, "off": 0}[policy]
    assert len(rows) == 40 - left_out
    if policy == "off":
        assert manifest["near_duplicates"] == {"rows": 0, "across_splits": 0, "left_out": 0}
        return
    assert manifest["near_duplicates"] == {"rows": 20, "across_splits": len(across), "left_out": left_out}
    for pair in across if policy != "mark" else []:
        (kept,) = [video for video in pair if video in rows]
        assert splits[kept] == "test"
    marked = {row["video_id"]: row["duplicate_of"] for row in rows.values() if row["duplicate_of"]}
    assert len(marked) == 20 - left_out
    for video, first in marked.items():
        assert tuple(sorted((video, first.split(".")[0]))) in pairs
    listed = [json.loads(line) for line in (tmp_path / "corpus" / "near_duplicates.jsonl").read_text().splitlines()]
    assert len(listed) == 20
    assert sum(row["left_out"] for row in listed) == left_out
    assert all(row["similarity"] == 1 for row in listed)


def test_the_released_form_is_read_by_the_loader_of_pretraining(tmp_path: Path) -> None:
    from lfvila_hf.data.annotations import load_pretraining

    build(tmp_path, many_videos(30))
    table = load_pretraining(str(tmp_path / "corpus" / "jsonl" / "train-*.jsonl"), "clips", check_files=False)
    rows = [row for row in rows_of(tmp_path / "corpus") if row["split"] == "train"]
    assert len(table) == len(rows) >= 20
    for one, row in zip(table, rows, strict=True):
        assert one["id"] == row["video_id"]
        assert one["sentences"] == row["texts"]
        assert one["clips"] == [f"clips/{row['video_id']}/{clip_id}" for clip_id in row["clip_ids"]]


def test_the_folder_is_one_that_datasets_loads(tmp_path: Path) -> None:
    from datasets import load_dataset

    build(tmp_path, many_videos(60), parameters=BuildParameters(validation=0.1, test=0.1, rows_per_file=20))
    loaded = load_dataset(str(tmp_path / "corpus"), cache_dir=str(tmp_path / "cache"))
    counts = {split: len(loaded[split]) for split in ("train", "validation", "test")}
    assert sum(counts.values()) == 60
    assert min(counts.values()) > 0
    assert loaded["train"].features["starts"].feature.dtype == "float64"


def test_files_have_the_stated_rows_and_checksums(tmp_path: Path) -> None:
    manifest = build(tmp_path, many_videos(45), parameters=BuildParameters(rows_per_file=20)).manifest
    assert json.loads((tmp_path / "corpus" / "manifest.json").read_text()) == manifest
    train = [file for file in manifest["files"] if file["path"].startswith("data/train")]
    assert [file["rows"] for file in train[:-1]] == [20] * (len(train) - 1)
    assert len(train) == 3
    for file in manifest["files"]:
        content = (tmp_path / "corpus" / file["path"]).read_bytes()
        assert len(content) == file["bytes"]
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    names = {path.name for path in (tmp_path / "corpus").iterdir()} - {LOCK}
    assert names == {"data", "jsonl", "manifest.json", "near_duplicates.jsonl", "problems.jsonl", "provenance.json"}


def test_worker_processes_make_the_same_corpus(tmp_path: Path) -> None:
    videos = many_videos(40)
    engine = LocalEngine(2)
    build(tmp_path / "one", videos)
    build(tmp_path / "two", videos, engine=engine, chunk_bytes=2000)
    engine.close()
    assert content_of(tmp_path / "one" / "corpus") == content_of(tmp_path / "two" / "corpus")


def test_compressed_input_is_the_same_input_whatever_its_size(tmp_path: Path) -> None:
    videos = many_videos(10)
    build(tmp_path / "one", videos)
    transcripts = tmp_path / "t.jsonl.gz"
    transcripts.write_bytes(gzip.compress((tmp_path / "one" / "transcripts.jsonl").read_bytes()))
    metadata = [tmp_path / "one" / "metadata.jsonl"]
    for name, chunk_bytes in (("two", 16 * 2**20), ("three", 300)):  # in one piece, in many
        options: dict[str, Any] = {"engine": LocalEngine(1), "chunk_bytes": chunk_bytes}
        build_corpus(tmp_path / name, metadata=metadata, transcripts=[transcripts], **options)
        assert content_of(tmp_path / "one" / "corpus") == content_of(tmp_path / name)
    whole = transcripts.read_bytes()
    for content, said in ((whole[:-20], "is damaged or cut off"), (b"", "is empty"), (b"text", "is damaged")):
        transcripts.write_bytes(content)
        with pytest.raises(ValueError, match=rf"t\.jsonl\.gz {said}"):
            build_corpus(tmp_path / "four", metadata=metadata, transcripts=[transcripts], engine=LocalEngine(1))


@pytest.mark.parametrize("content", ["lines", "one line"])
def test_a_compressed_file_is_read_in_bounded_memory(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}\n" * 15_000_000 if content == "lines" else b"x" * 45_000_000, 1))
    chunk = Chunk("metadata", str(path), 0, None)
    tracemalloc.start()
    assert count_bytes(str(path)) == 45_000_000
    if content == "lines":
        assert len(set(islice(read_chunk(chunk), 200_000))) == 1
    else:
        with pytest.raises(ValueError, match="has a line of more than 16777216 bytes"):
            next(read_chunk(chunk))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (8e6 if content == "lines" else 40e6)


def test_a_corpus_is_replaced_only_on_request_and_other_things_never(tmp_path: Path) -> None:
    build(tmp_path, many_videos(4))
    with pytest.raises(ValueError, match="there is a corpus in"):
        build(tmp_path, many_videos(6))
    splits = build(tmp_path, many_videos(6), overwrite=True).manifest["splits"]
    assert sum(split["videos"] for split in splits.values()) == 6
    (tmp_path / "corpus" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"holds other things, such as thesis\.tex"):
        build(tmp_path, many_videos(6), overwrite=True)
    with pytest.raises(ValueError, match="is a file. Give a folder"):
        build_corpus(tmp_path / "metadata.jsonl", metadata=[tmp_path / "metadata.jsonl"])


def test_the_old_corpus_goes_only_when_the_new_one_is_complete(tmp_path: Path) -> None:
    build(tmp_path, many_videos(4))
    before = content_of(tmp_path / "corpus")
    with pytest.raises(ValueError, match="no long-form row came out"):
        build(tmp_path, many_videos(4, clips=2), overwrite=True)
    with pytest.raises(ValueError, match="the input has problems"):
        build(tmp_path, [*many_videos(4), b"{"], overwrite=True, strict=True)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, many_videos(5), overwrite=True, engine=_Interrupted(1))
    assert content_of(tmp_path / "corpus") == before


class _Interrupted(LocalEngine):
    def run(self, function: Any, plan: Any, items: Any) -> Any:
        if function.__name__ == "write_file":
            raise KeyboardInterrupt
        yield from super().run(function, plan, items)


@pytest.mark.parametrize("moves", range(14))
def test_a_replacement_that_was_interrupted_is_finished_by_the_next_build(
    moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, left = os.replace, moves

    def killed(*paths: Any) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        replace(*paths)

    for name in ("old", "new"):
        for part in ("data", "jsonl", "near_duplicates.jsonl", "problems.jsonl", "provenance.json", MANIFEST):
            write_lines(tmp_path / name / part / "x" if part in ("data", "jsonl") else tmp_path / name / part, [name])
    output = tmp_path / "old"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) if moves < 12 else nullcontext():
        with new_corpus(output, overwrite=True) as folder:
            folder.new.rmdir()
            replace(tmp_path / "new", folder.new)
            patch.setattr("lfvila_hf.corpus.output_folders.os.replace", killed)
    with pytest.raises(ValueError, match="there is a corpus"), new_corpus(output, overwrite=False):
        pass
    assert sorted(path.name for path in output.iterdir())[0] == LOCK
    files = [path for path in output.rglob("*") if path.is_file() and path.name != LOCK]
    assert len(files) == 6
    assert {path.read_text() for path in files} == {'"new"\n'}


def test_two_builds_into_one_folder_are_refused_with_a_clear_word(tmp_path: Path) -> None:
    build(tmp_path, many_videos(4))
    before = content_of(tmp_path / "corpus")
    with locked(tmp_path / "corpus"), pytest.raises(ValueError, match="another process is writing to"):
        build(tmp_path, many_videos(6), overwrite=True)
    assert content_of(tmp_path / "corpus") == before


def test_an_input_inside_the_output_is_refused(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "corpus" / "data" / "m.jsonl", many_videos(4))
    with pytest.raises(ValueError, match="lies in the corpus that is to be written"):
        build_corpus(tmp_path / "corpus", metadata=[source], overwrite=True)
    assert source.exists()


def test_a_build_without_rows_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no long-form row came out: 3 clips .* 3 of them eligible, 3 in runs of"):
        build(tmp_path, [video_row("v", even_spans(3))])
    with pytest.raises(ValueError, match="problems: 8 clip_without_transcript"):
        build(tmp_path, [video_row("v", even_spans(8))], [])
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == [LOCK]


NAN = float("nan")
OUT_OF_RANGE = [
    (BuildParameters, one) for one in ({"validation": 0.7, "test": 0.4}, {"test": -0.1}, {"similarity": 0.2})
]
OUT_OF_RANGE += [(BuildParameters, one) for one in ({"near_duplicates": "maybe"}, {"rows_per_file": 0})]
OUT_OF_RANGE += [(JoinRules, one) for one in ({"max_gap": -1}, {"max_overlap": NAN}, {"overlaps": "merge"})]
OUT_OF_RANGE += [(JoinRules, one) for one in ({"min_clips": 0}, {"max_clips": 3}, {"max_seconds": 0})]
OUT_OF_RANGE += [(TextRules, one) for one in ({"min_words": 0}, {"max_words": 4, "min_words": 5}, {"min_letters": 1.5})]
OUT_OF_RANGE += [(SentenceRules, one) for one in ({"min_seconds": 30}, {"max_words": 0}, {"pause": -1})]
OUT_OF_RANGE += [(SentenceRules, {"max_seconds": 0, "min_seconds": 0})]
OUT_OF_RANGE += [(CutParameters, {"fps": fps}) for fps in ("0", "fast", "1/0")]
OUT_OF_RANGE += [(CutParameters, one) for one in ({"height": 101}, {"height": 0}, {"crf": 60}, {"gop_seconds": 0})]
OUT_OF_RANGE += [(CutParameters, {"end_tolerance": -1})]


@pytest.mark.parametrize(("kind", "arguments"), OUT_OF_RANGE)
def test_parameters_out_of_range_are_refused_by_name(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kind(**arguments)


def test_other_arguments_without_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no input file"):
        build_corpus(tmp_path / "out", metadata=[tmp_path / "nothing*.jsonl"])
    with pytest.raises(ValueError, match="no metadata file"):
        build_corpus(tmp_path / "out", metadata=[])
    with pytest.raises(ValueError, match="chunk_bytes"):
        build_corpus(tmp_path / "out", metadata=[__file__], chunk_bytes=0)
    with pytest.raises(ValueError, match="workers"):
        LocalEngine(0)
    with pytest.raises(ValueError, match="'local' or 'ray'"):
        make_engine("spark")


def test_a_worker_that_dies_is_an_error_with_advice() -> None:
    engine = LocalEngine(2)
    with pytest.raises(ValueError, match="a worker of the stage .* died"):
        list(engine.run(_die, None, [1, 2]))
    engine.close()


def _die(plan: Any, item: Any) -> None:
    sys.modules["os"]._exit(3)


def test_importing_the_stages_loads_neither_pyarrow_nor_a_decoder() -> None:
    """Beyond what the package itself imports."""
    program = "import lfvila_hf, sys; before = set(sys.modules); import lfvila_hf.corpus.building as b; "
    program += (
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} & {'pyarrow', 'av', 'ray', 'datasets'}))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_bounds_and_text_rules_reach_the_rows(tmp_path: Path) -> None:
    join = JoinRules(max_gap=3, min_clips=2, max_clips=3, max_seconds=12)
    parameters = BuildParameters(join=join, text=TextRules(min_words=3))
    videos = [video_row("v", even_spans(11, gap=1.0))]
    transcripts = transcripts_of(videos)
    transcripts[5] = {"clip_id": "v.5.mp4", "text": "Too short."}
    manifest = build(tmp_path, videos, transcripts, parameters=parameters).manifest
    rows = rows_of(tmp_path / "corpus")
    assert all(2 <= row["num_clips"] <= 3 and row["seconds"] <= 12 for row in rows)
    assert manifest["problems"]["unusable_text"]["count"] == 1
    kept = {clip for row in rows for clip in row["clip_ids"]}
    assert len(kept) + manifest["counts"]["clips_cut_off_by_bounds"] == 10
