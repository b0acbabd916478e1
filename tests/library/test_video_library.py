"""`VideoLibrary`: what goes in comes out, in memory and on disk, and questions are answered as the model would.

Also pins library_view, ranking (against `LFVilaModel.similarity` over everything), reranking, files and store as the
library uses them; a store that is killed half way is tested in test_indexing.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_library import RULE, STORY, K, make_checkpoint, make_model, make_processor, make_videos

from lfvila_hf import LFVilaVideoError, encode_paragraphs, encode_videos
from lfvila_hf.library import VideoLibrary
from lfvila_hf.library.files import find_videos
from lfvila_hf.library.ranking import rows_of
from lfvila_hf.library.segments import SegmentRule
from lfvila_hf.library.store import MANIFEST
from lfvila_hf.library.vectors import FaissSearch

NOISE = 2e-3
"""Clip features are searched in half precision."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library") / "videos"
    make_videos(folder)
    make_videos(folder / "more", (30, 50), start=4)
    return folder


def new_library(vocabulary: dict[str, int], rule: SegmentRule = RULE, root: Path | None = None) -> VideoLibrary:
    return VideoLibrary(make_model(vocabulary), make_processor(vocabulary), rule, root=root)


@pytest.fixture
def library(folder: Path, tiny_vocabulary: dict[str, int]) -> VideoLibrary:
    library = new_library(tiny_vocabulary, root=folder)
    assert library.add(folder) == []
    return library


NAMES = [*(f"clip_{n}.mp4" for n in range(4)), "more/clip_4.mp4", "more/clip_5.mp4"]


def test_the_five_lines_of_the_documentation(folder: Path, tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", tiny_vocabulary)
    library = VideoLibrary.from_checkpoint(str(checkpoint))
    library.add(folder)
    hits = library.search("First a man rides. Then the ball is red.")
    library.save(tmp_path / "index")
    again = VideoLibrary.load(tmp_path / "index").search("First a man rides. Then the ball is red.")
    assert [hit.path for hit in again] == [hit.path for hit in hits] and len(hits) == 6
    assert all(np.isclose(a.score, b.score, atol=1e-6) for a, b in zip(hits, again, strict=True))
    assert all(os.path.isabs(hit.path) and os.path.isfile(hit.path) for hit in hits)
    assert [moment.sentence for moment in hits[0].moments] == ["First a man rides.", "Then the ball is red."]


@pytest.mark.parametrize("score", ["global", "aligned", "both"])
def test_hits_are_those_of_the_model_over_all_videos(folder: Path, tiny_vocabulary: dict[str, int], score: str) -> None:
    library = new_library(tiny_vocabulary, SegmentRule(60), folder)
    library.add(folder)
    model, processor = library.model.model, library.processor
    videos = encode_videos(model, processor, [str(folder / name) for name in NAMES])
    text = encode_paragraphs(model, processor, [STORY])
    expected = model.similarity(text, videos, score)[0]
    hits = library.search(STORY, score=score)  # type: ignore[arg-type]  # one of the three names
    assert [hit.path for hit in hits] == [NAMES[n] for n in expected.argsort(descending=True)]
    assert all(abs(hit.score - expected[NAMES.index(hit.path)]) < NOISE for hit in hits)
    for hit in hits:
        number = NAMES.index(hit.path)
        pair = {"sentence_embeds": text.sentence_embeds, "clip_embeds": videos.clip_embeds[number : number + 1]}  # type: ignore[index]  # there are clips
        moments = processor.post_process_alignment(pair, [videos.metadata[number]])[0]
        assert [(m.start, m.end) for m in hit.moments] == [(m.start, m.end) for m in moments]
        assert hit.cosines is not None and hit.cosines.shape == (3, K)
        json.dumps(hit.as_dict())


def test_of_a_long_video_the_best_segment_counts(library: VideoLibrary) -> None:
    hits = library.search(STORY)
    assert len(hits) == len({hit.path for hit in hits}) == 6
    best = {hit.path: hit for hit in hits}["clip_1.mp4"]
    every = library.search(STORY, path="clip_1.mp4")
    assert len(every) == 1 and every[0] == best
    assert library.num_segments == 1 + 4 + 1 + 3 + 2 + 3
    for hit in hits:
        neighbours = [row for row in library.segments_of(hit.path) if row["start"] < hit.end and row["end"] > hit.start]
        # the frame on screen where a segment begins may have begun a little earlier
        first = min(row["clip_times"][0] for row in neighbours)
        last = max(row["clip_times"][-1] for row in neighbours)
        assert first > min(row["start"] for row in neighbours) - 1 / 25
        assert all(first <= moment.start < moment.end <= last for moment in hit.moments)
        assert (hit.clip_times[0], hit.clip_times[-1]) == (first, last)
    assert [row["segment"] for row in library.segments_of("clip_1.mp4")] == [0, 1, 2, 3]


def test_the_seconds_of_a_sentence_come_from_every_segment_that_shows_them(library: VideoLibrary) -> None:
    (hit,) = library.search(STORY, path="clip_1.mp4")
    near = [row for row in library.segments_of("clip_1.mp4") if row["start"] < hit.end and row["end"] > hit.start]
    assert len(near) > 1
    sentences = library.read_story(STORY).embeddings.sentence_embeds
    assert sentences is not None and library.view.clips is not None and hit.cosines is not None
    clips = torch.from_numpy(np.array(library.view.clips[rows_of(library.view, "clip_1.mp4")], dtype=np.float32))
    for cell, (start, end) in enumerate(zip(hit.clip_times, hit.clip_times[1:], strict=False)):
        middle = (start + end) / 2
        seen = [
            sentences[0] @ clips[row["segment"], clip]
            for row in near
            for clip in range(K)
            if row["clip_times"][clip] <= middle < row["clip_times"][clip + 1]
        ]
        assert torch.allclose(hit.cosines[:, cell], torch.stack(seen).mean(0), atol=1e-5)
    bounds = [(moment.start, moment.end) for moment in hit.moments]
    assert bounds == sorted(bounds) and set(bounds) <= set(zip(hit.clip_times, hit.clip_times[1:], strict=False))
    total = sum(moment.score for moment in hit.moments)
    cells = range(hit.cosines.shape[1])
    every = [(a, b, c) for a in cells for b in cells if b >= a for c in cells if c >= b]
    assert total == pytest.approx(max(float(hit.cosines[[0, 1, 2], list(chosen)].sum()) for chosen in every), abs=1e-5)


def test_few_candidates_are_the_best_by_the_global_score(library: VideoLibrary) -> None:
    everything = library.search(STORY, score="global", top_k=6)
    few = library.search(STORY, score="both", top_k=2, candidates=2)
    assert {hit.row for hit in few} <= {hit.row for hit in everything[:2]} | {hit.row for hit in few}
    assert max(hit.scores["global"] for hit in few) == pytest.approx(everything[0].score)


# -- adding and removing -----------------------------------------------------------------------------------------------


def test_what_is_in_already_is_not_embedded_again(library: VideoLibrary, folder: Path) -> None:
    rows = library.view.rows
    library.add([folder / "clip_0.mp4", folder])
    assert library.view.rows is rows


def test_removed_videos_are_gone_at_once_and_after_saving(
    library: VideoLibrary, folder: Path, tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    library.save(tmp_path / "index")
    for stage in ("saved", "loaded"):
        library.remove(["clip_1.mp4", folder / "more" / "clip_4.mp4"] if stage == "saved" else "clip_2.mp4")
        gone = {"clip_1.mp4", "more/clip_4.mp4"} | ({"clip_2.mp4"} if stage == "loaded" else set())
        assert library.paths == [name for name in NAMES if name not in gone]
        assert not gone & {hit.path for hit in library.search(STORY)}
        library.save(tmp_path / "index")
        library = VideoLibrary.load(tmp_path / "index", library.model, library.processor)
        assert library.paths == [name for name in NAMES if name not in gone]
    with pytest.raises(ValueError, match=r"the video clip_1.mp4 is not in this library"):
        library.remove("clip_1.mp4")
    library.add(folder / "clip_1.mp4")
    assert "clip_1.mp4" in library and len(library) == 4


def test_a_saved_library_equals_the_one_in_memory(library: VideoLibrary, tmp_path: Path) -> None:
    hits = library.search(STORY)
    pictures = [library.thumbnail(row) for row in range(library.num_segments)]
    assert all(picture.startswith(b"\xff\xd8") for picture in pictures) and len(set(pictures)) > 6
    library.save(tmp_path / "one")
    library.save(tmp_path / "two")
    assert (tmp_path / "one" / MANIFEST).read_bytes() == (tmp_path / "two" / MANIFEST).read_bytes()
    loaded = VideoLibrary.load(tmp_path / "one", library.model, library.processor)
    assert loaded.search(STORY) == hits
    assert [loaded.thumbnail(row) for row in range(loaded.num_segments)] == pictures


def test_a_video_that_changed_replaces_its_rows(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    (first, second) = make_videos(tmp_path / "videos", (20, 20))
    library = new_library(tiny_vocabulary, root=tmp_path / "videos")
    library.add(tmp_path / "videos")
    library.save(tmp_path / "index")
    make_videos(tmp_path / "videos", (60,))  # clip_0 is now longer
    library.add(first)
    assert [len(library.segments_of(name)) for name in library.paths] == [4, 1]
    library.save(tmp_path / "index")
    assert [len(library.segments_of(name)) for name in library.paths] == [4, 1]


def test_an_unusable_video_is_an_error_or_a_listed_problem(
    folder: Path, tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    library = new_library(tiny_vocabulary)
    with pytest.raises(LFVilaVideoError, match="broken.mp4"):
        library.add([broken])
    problems = library.add([broken, folder / "clip_0.mp4"], on_error="skip")
    assert [problem.path for problem in problems] == [str(broken)] and len(library) == 1
    with pytest.raises(ValueError, match="no such file or folder"):
        library.add(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no video in"):
        library.add(tmp_path / "empty")


def test_with_a_root_nothing_outside_it_is_taken_in(
    folder: Path, tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    (inside,) = make_videos(tmp_path / "root", (20,))
    (tmp_path / "root" / "link.mp4").symlink_to(folder / "clip_0.mp4")
    (tmp_path / "root" / "own.mp4").symlink_to(inside)
    files, problems = find_videos([str(tmp_path / "root")], str(tmp_path / "root"))
    assert [file.path for file in files] == ["clip_0.mp4", "own.mp4"]
    assert [(one.path, one.reason) for one in problems] == [("link.mp4", "it is a link to a place outside the folder")]
    library = new_library(tiny_vocabulary, root=tmp_path / "root")
    with pytest.raises(ValueError, match="is outside the library's folder"):
        library.add(folder / "clip_1.mp4")
    library.add(inside)
    inside.unlink()
    inside.symlink_to("/etc/hostname")  # a video that turned into a way out
    with pytest.raises(ValueError, match="leads out of the library's folder"):
        library.file_of("clip_0.mp4")
    for name in ("../library.json", "/etc/hostname", "clip_9.mp4", ""):
        with pytest.raises(ValueError, match="is not in this library"):
            library.file_of(name)


# -- other questions ---------------------------------------------------------------------------------------------------


def test_the_most_like_a_video_is_a_copy_of_it(library: VideoLibrary, folder: Path, tmp_path: Path) -> None:
    hits = library.search_by_video("clip_1.mp4")
    assert [hit.path for hit in hits].count("clip_1.mp4") == 0 and len(hits) == 5
    assert library.search_by_video(folder / "clip_1.mp4") == hits, "a video of the library by its path on disk"
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((folder / "clip_1.mp4").read_bytes())
    best = library.search_by_video(copy)[0]
    assert best.path == "clip_1.mp4" and best.score == pytest.approx(1, abs=1e-5)


def test_texts_are_ranked_for_a_video_by_its_best_segment(library: VideoLibrary, folder: Path) -> None:
    texts = [STORY, "a woman. the end", ["a blue box", "a circle", "left"]]
    for video in ("clip_1.mp4", str(folder / "clip_1.mp4")):
        ranked = library.rank_texts(video, texts)
        assert sorted(number for number, _ in ranked) == [0, 1, 2]
        assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
        score = dict(ranked)[0]
        assert score == pytest.approx(library.search(STORY, path="clip_1.mp4")[0].score, abs=NOISE)


def test_reranking_orders_the_first_hits_by_the_matching_head(library: VideoLibrary, folder: Path) -> None:
    plain = library.search(STORY)
    hits = library.search(STORY, rerank=3)
    assert {hit.path for hit in hits[:3]} == {hit.path for hit in plain[:3]} and hits[3:] == plain[3:]
    assert [hit.score for hit in hits[:3]] == sorted((hit.scores["vtm"] for hit in hits[:3]), reverse=True)
    one = (
        next(hit for hit in hits[:3] if hit.duration <= RULE.seconds)
        if any(hit.duration <= RULE.seconds for hit in hits[:3])
        else None
    )
    if one is not None:
        inputs = library.processor(text=[STORY], videos=[str(folder / one.path)])
        with torch.no_grad():
            logits = library.model(**inputs, phase="fusion", return_loss=False).vtm_logits
        assert one.scores["vtm"] == pytest.approx(logits.softmax(-1)[0, 1].item(), abs=1e-5)


def test_reranking_needs_the_head_and_the_file(
    library: VideoLibrary, tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    (video,) = make_videos(tmp_path / "videos", (20,))
    towers = VideoLibrary(make_model(tiny_vocabulary).model, make_processor(tiny_vocabulary), RULE)
    towers.add(video)
    with pytest.raises(ValueError, match="reranking needs a pre-training checkpoint with a cross-modal encoder"):
        towers.search(STORY, rerank=1)
    library = new_library(tiny_vocabulary)
    library.add(video)
    video.unlink()
    assert library.search(STORY)[0].path == str(video), "searching reads no video"
    with pytest.raises(LFVilaVideoError, match="no such file"):
        library.search(STORY, rerank=1)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_another_model_version_or_format_is_refused(
    library: VideoLibrary, tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    library.save(tmp_path / "index")
    with pytest.raises(ValueError, match="made with another checkpoint .* index the videos again or use the first"):
        VideoLibrary.load(tmp_path / "index", make_model(tiny_vocabulary, seed=1), library.processor)
    manifest = tmp_path / "index" / MANIFEST
    good = manifest.read_text()
    manifest.write_text(good.replace('"version": "0.1.', '"version": "7.3.'))
    with pytest.raises(ValueError, match=r"made by version 7\.3\..* of lfvila_hf, this is 0\.1\."):
        VideoLibrary.load(tmp_path / "index")
    manifest.write_text(good.replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="has format 2, this version reads format 1: index the videos again"):
        VideoLibrary.load(tmp_path / "index")
    manifest.write_text(good[:50])
    with pytest.raises(ValueError, match="library.json is damaged"):
        VideoLibrary.load(tmp_path / "index")
    manifest.write_text(good.replace("table/part-", "../../part-"))
    with pytest.raises(ValueError, match="is not whole, .* is missing"):
        VideoLibrary.load(tmp_path / "index")
    with pytest.raises(ValueError, match="there is no index in .*absent"):
        VideoLibrary.load(tmp_path / "absent")


def test_questions_that_make_no_sense_are_refused(library: VideoLibrary, tiny_vocabulary: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="the story is empty"):
        library.search("  ")
    with pytest.raises(ValueError, match="has 100 sentences"):
        library.search("A man rides. " * 100)
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        library.search(STORY, top_k=0)
    with pytest.raises(ValueError, match="the score must be one of global, aligned, both, got 'best'"):
        library.search(STORY, score="best")  # type: ignore[arg-type]  # what a user may type
    with pytest.raises(ValueError, match="clip_9.mp4 is not in this library"):
        library.search(STORY, path="clip_9.mp4")
    with pytest.raises(ValueError, match="there is no text to rank"):
        library.rank_texts("clip_1.mp4", [])


def test_an_empty_library_answers_with_nothing(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    library = new_library(tiny_vocabulary)
    assert len(library) == 0 and library.search(STORY) == [] and library.search_by_video("a.mp4") == []
    library.save(tmp_path / "index")
    assert VideoLibrary.load(tmp_path / "index", library.model, library.processor).search(STORY) == []


def test_a_model_without_clips_searches_by_the_global_score(folder: Path, tiny_vocabulary: dict[str, int]) -> None:
    model = make_model(tiny_vocabulary, temporal_alignment=False)
    library = VideoLibrary(model, make_processor(tiny_vocabulary), RULE)
    library.add(folder / "clip_1.mp4")
    (hit,) = library.search(STORY)
    assert set(hit.scores) == {"global"} and hit.moments == () and hit.cosines is None
    with pytest.raises(ValueError, match="needs clip features and this index has none: ask for 'global'"):
        library.search(STORY, score="both")


def test_a_saved_faiss_index_is_used_and_finds_the_same(library: VideoLibrary, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed (extra library)")
    hits = library.search(STORY)
    library.save(tmp_path / "index", kind="sq8")
    loaded = VideoLibrary.load(tmp_path / "index", library.model, library.processor)
    assert isinstance(loaded.view.search, FaissSearch)
    found = loaded.search(STORY)
    assert [hit.row for hit in found] == [hit.row for hit in hits]
    assert all(hit.score == pytest.approx(other.score, abs=1e-5) for hit, other in zip(found, hits, strict=True))
