"""`VideoLibrary`: what goes in comes out, in memory and on disk, for LF-VILA and for an encoder of clips.

The ranking itself is pinned in test_ranking.py; what kills and damage do in test_indexing.py.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from small_encoders import save_family
from small_library import RULE, STORY, K, make_checkpoint, make_model, make_processor, make_videos

from lfvila_hf import LFVilaVideoError, encode_paragraphs, encode_videos
from lfvila_hf.search import SegmentRule, VideoLibrary
from lfvila_hf.search.formats import FORMATTERS
from lfvila_hf.search.ranking import Hit, Hits
from lfvila_hf.search.sentence_moments import Moment
from lfvila_hf.search.story_sentences import MAX_CHARACTERS, MAX_SENTENCES, check_sentences, split_sentences

NAMES = [*(f"clip_{n}.mp4" for n in range(4)), "more/clip_4.mp4", "more/clip_5.mp4"]
CLOSE = {"abs": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library") / "videos"
    make_videos(folder)
    make_videos(folder / "more", (30, 50), start=4)
    return folder


def new_library(vocabulary: dict[str, int], rule: SegmentRule = RULE, root: Path | None = None) -> VideoLibrary:
    return VideoLibrary(make_model(vocabulary), make_processor(vocabulary), rule, root=root)


@pytest.fixture(params=["lfvila", "clip"])
def library(request: Any, folder: Path, tmp_path: Path, tiny_vocabulary: dict[str, int]) -> VideoLibrary:
    if request.param == "lfvila":
        library = new_library(tiny_vocabulary, root=folder)
    else:
        checkpoint = save_family("clip", tmp_path / "clip", tiny_vocabulary)
        library = VideoLibrary.from_checkpoint(str(checkpoint), rule=SegmentRule(1.0, 0.5, 0.25), root=folder)
    assert library.add(folder) == []
    return library


def test_the_five_lines_of_the_documentation(folder: Path, tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", tiny_vocabulary)
    library = VideoLibrary.from_checkpoint(str(checkpoint))
    library.add(folder)
    hits = library.search("First a man rides. Then the ball is red.")
    library.save(tmp_path / "index")
    again = VideoLibrary.load(tmp_path / "index").search("First a man rides. Then the ball is red.")
    assert again == hits and len(hits) == 6
    assert all(os.path.isabs(hit.path) and os.path.isfile(hit.path) for hit in hits)
    assert [moment.text for moment in hits[0].moments] == ["First a man rides.", "Then the ball is red."]
    sys.modules.pop("lfvila_hf.library", None)
    with pytest.warns(DeprecationWarning, match="has moved to lfvila_hf.search"):
        import lfvila_hf.library
    assert lfvila_hf.library.VideoLibrary is VideoLibrary, "the former name, for one version"


@pytest.mark.parametrize("score", ["global", "aligned", "both"])
def test_hits_are_those_of_the_model_over_all_videos(folder: Path, tiny_vocabulary: dict[str, int], score: Any) -> None:
    library = new_library(tiny_vocabulary, SegmentRule(60), folder)
    library.add(folder)
    model, processor = library.model.model, library.processor
    videos = encode_videos(model, processor, [str(folder / name) for name in NAMES])
    text = encode_paragraphs(model, processor, [STORY])
    expected = model.similarity(text, videos, score)[0]
    hits = library.search(STORY, score=score)
    assert [hit.path for hit in hits] == [NAMES[n] for n in expected.argsort(descending=True)]
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected.tolist(), reverse=True), **CLOSE)
    for hit in hits:
        number = NAMES.index(hit.path)
        pair = {"sentence_embeds": text.sentence_embeds, "clip_embeds": videos.clip_embeds[number : number + 1]}
        moments = processor.post_process_alignment(pair, [videos.metadata[number]])[0]
        for own, one in zip(hit.moments, moments, strict=True):  # the place of the alignment is in the one that grew
            assert own.start <= one.start + 1e-9 and one.end <= own.end + 1e-9
        assert hit.cosines is not None and hit.cosines.shape == (3, K)
        json.dumps(hit.as_dict())


def test_of_a_long_video_the_best_segment_counts(library: VideoLibrary) -> None:
    hits = library.search(STORY)
    assert len(hits) == len({hit.path for hit in hits}) == 6
    best = {hit.path: hit for hit in hits}["clip_1.mp4"]
    (only,) = library.search(STORY, path="clip_1.mp4")
    assert only.segment == best.segment and only.scores == pytest.approx(best.scores)
    assert library.num_segments == sum(len(library.segments_of(path)) for path in library.paths) > 10
    for hit in hits:
        near = [row for row in library.segments_of(hit.path) if row["start"] < hit.end and row["end"] > hit.start]
        first = min(row["clip_times"][0] for row in near)
        last = max(row["clip_times"][-1] for row in near)
        assert (hit.clip_times[0], hit.clip_times[-1]) == (first, last)
        assert all(first <= moment.start < moment.end <= last for moment in hit.moments)


def test_removed_videos_are_gone_at_once_and_after_saving(library: VideoLibrary, folder: Path, tmp_path: Path) -> None:
    library.save(tmp_path / "index")
    for stage in ("saved", "loaded"):
        library.remove(["clip_1.mp4", folder / "more" / "clip_4.mp4"] if stage == "saved" else "clip_2.mp4")
        gone = {"clip_1.mp4", "more/clip_4.mp4"} | ({"clip_2.mp4"} if stage == "loaded" else set())
        assert library.paths == [name for name in NAMES if name not in gone]
        assert not gone & {hit.path for hit in library.search(STORY)}
        library.save(tmp_path / "index")
        library = VideoLibrary.load(tmp_path / "index", library.encoder)
        assert library.paths == [name for name in NAMES if name not in gone]
    with pytest.raises(ValueError, match=r"the video clip_1.mp4 is not in this library"):
        library.remove("clip_1.mp4")
    library.add(folder / "clip_1.mp4")
    assert "clip_1.mp4" in library and len(library) == 4
    rows = library.view.rows
    library.add([folder / "clip_0.mp4", folder / "clip_1.mp4"])
    assert library.view.rows is rows, "what is in already is not embedded again"


def test_a_saved_library_equals_the_one_in_memory(library: VideoLibrary, tmp_path: Path) -> None:
    hits = library.search(STORY)
    places = [(path, row["segment"]) for path in library.paths for row in library.segments_of(path)]
    pictures = [library.thumbnail(*place) for place in places]
    assert all(picture.startswith(b"\xff\xd8") for picture in pictures) and len(set(pictures)) > 5
    library.save(tmp_path / "index")
    loaded = VideoLibrary.load(tmp_path / "index", library.encoder)
    assert loaded.search(STORY) == hits and [loaded.thumbnail(*place) for place in places] == pictures
    np.testing.assert_array_equal(loaded.view.block, library.view.block)
    (name,) = (file.name for file in (tmp_path / "index" / "scan").glob("*.f32"))
    assert VideoLibrary.load(tmp_path / "index", library.encoder).search(STORY) == hits
    assert [file.name for file in (tmp_path / "index" / "scan").glob("*.f32")] == [name], "made once a version"
    with pytest.raises(ValueError, match="there is no segment 99"):
        loaded.thumbnail("clip_0.mp4", 99)


def test_a_reader_keeps_its_version(library: VideoLibrary, tmp_path: Path) -> None:
    library.save(tmp_path / "index")
    reader = VideoLibrary.load(tmp_path / "index", library.encoder)
    hits = reader.search(STORY)
    library.remove("clip_0.mp4")
    library.save(tmp_path / "index")
    assert len(reader) == 6 and reader.search(STORY) == hits and reader.thumbnail("clip_0.mp4", 0)
    assert len(VideoLibrary.load(tmp_path / "index", library.encoder)) == 5


def test_saves_at_the_same_time_leave_one_whole_index(library: VideoLibrary, tmp_path: Path) -> None:
    place = tmp_path / "index"
    library.save(place)
    copies = [VideoLibrary.load(place, library.encoder) for _ in range(4)]
    hits = library.search(STORY)

    def save(one: VideoLibrary) -> str:
        try:
            one.save(place)
        except ValueError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(save, copies))
    assert "" in answers and all("another run is at work on the index" in answer for answer in answers if answer)
    assert VideoLibrary.load(place, library.encoder).search(STORY) == hits
    with FileLock(place / ".lock"), pytest.raises(ValueError, match="another run is at work on the index"):
        library.save(place)


def test_an_index_may_be_in_object_storage(library: VideoLibrary) -> None:
    address = "memory://library"
    try:
        library.save(address)
    except ValueError as error:
        pytest.skip(f"this LanceDB has no store in memory ({error})")
    assert library._index is not None and library._index.folder is None
    assert len(library) == 6 and library.search(STORY, top_k=2)


def test_an_unusable_video_is_an_error_or_a_listed_problem(folder: Path, tmp_path: Path, tiny_vocabulary: Any) -> None:
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
    (inside,) = make_videos(tmp_path / "root", (20,))
    rooted = new_library(tiny_vocabulary, root=tmp_path / "root")
    with pytest.raises(ValueError, match="is outside the library's folder"):
        rooted.add(folder / "clip_1.mp4")
    rooted.add(inside)
    make_videos(tmp_path / "root", (60,))  # the file is longer now
    rooted.add(inside)
    assert len(rooted.segments_of("clip_0.mp4")) == 4


def test_the_most_like_a_video_is_a_copy_of_it(library: VideoLibrary, folder: Path, tmp_path: Path) -> None:
    hits = library.search_by_video("clip_1.mp4")
    assert [hit.path for hit in hits].count("clip_1.mp4") == 0 and len(hits) == 5
    assert library.search_by_video(folder / "clip_1.mp4") == hits, "a video of the library by its path on disk"
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((folder / "clip_1.mp4").read_bytes())
    best = library.search_by_video(copy)[0]
    assert best.path == "clip_1.mp4" and best.score == pytest.approx(1, abs=1e-4)


def test_texts_are_ranked_for_a_video_by_its_best_segment(library: VideoLibrary, folder: Path) -> None:
    texts = [STORY, "a woman. the end", ["a blue box", "a circle", "left"]]
    for video in ("clip_1.mp4", str(folder / "clip_1.mp4")):
        ranked = library.rank_texts(video, texts)
        assert sorted(number for number, _ in ranked) == [0, 1, 2]
        assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
        assert dict(ranked)[0] == pytest.approx(library.search(STORY, path="clip_1.mp4")[0].score, **CLOSE)


def test_reranking_orders_the_first_hits_by_the_matching_head(
    folder: Path, tmp_path: Path, tiny_vocabulary: Any
) -> None:
    library = new_library(tiny_vocabulary, root=folder)
    library.add(folder)
    plain, hits = library.search(STORY), library.search(STORY, rerank=3)
    assert {hit.path for hit in hits[:3]} == {hit.path for hit in plain[:3]} and hits[3:] == plain[3:]
    assert [hit.score for hit in hits[:3]] == sorted((hit.scores["vtm"] for hit in hits[:3]), reverse=True)
    hit = next(hit for hit in library.search(STORY, rerank=6) if hit.duration <= RULE.seconds)
    inputs = library.processor(text=[STORY], videos=[str(folder / hit.path)])
    with torch.no_grad():
        logits = library.model(**inputs, phase="fusion", return_loss=False).vtm_logits
    assert hit.scores["vtm"] == pytest.approx(logits.softmax(-1)[0, 1].item(), abs=1e-5)
    towers = VideoLibrary(make_model(tiny_vocabulary).model, make_processor(tiny_vocabulary), RULE)
    (video,) = make_videos(tmp_path, (20,))
    towers.add(video)
    with pytest.raises(ValueError, match="reranking needs a pre-training checkpoint with a cross-modal encoder"):
        towers.search(STORY, rerank=1)
    towers.use_model(make_model(tiny_vocabulary), make_processor(tiny_vocabulary))
    video.unlink()
    assert towers.search(STORY)[0].path == str(video), "searching reads no video"
    with pytest.raises(LFVilaVideoError, match="cannot be opened"):
        towers.search(STORY, rerank=1)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_another_model_or_a_question_that_makes_no_sense_is_refused(
    tmp_path: Path, folder: Path, tiny_vocabulary: Any
) -> None:
    library = new_library(tiny_vocabulary, root=folder)
    library.add(folder / "clip_0.mp4")
    library.save(tmp_path / "index")
    with pytest.raises(ValueError, match="made with another checkpoint .* index the videos again or use the first"):
        VideoLibrary.load(tmp_path / "index", make_model(tiny_vocabulary, seed=1), library.processor)
    with pytest.raises(ValueError, match="the index names no checkpoint"):
        VideoLibrary.load(tmp_path / "index").search(STORY)
    for options, word in (
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"score": "best"}, "the score must be one of"),
        ({"false_rate": 2.0}, "alpha must lie between"),
        ({"path": "absent.mp4"}, "is not in this library"),
    ):
        with pytest.raises(ValueError, match=word):
            library.search(STORY, **options)
    checkpoint = save_family("clip", tmp_path / "clip", tiny_vocabulary)
    clips = VideoLibrary.from_checkpoint(str(checkpoint), root=folder)
    clips.add(folder / "clip_0.mp4")
    with pytest.raises(ValueError, match="needs segment vectors and this index has none: ask for 'aligned'"):
        clips.search(STORY, score="both")
    clips.save(tmp_path / "clips")
    checkpoint.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="is no longer at .*clip: give --model"):
        VideoLibrary.load(tmp_path / "clips").search(STORY)
    assert VideoLibrary.load(tmp_path / "clips", VideoLibrary.from_checkpoint(str(tmp_path / "moved")).encoder).search(
        STORY
    )
    whole = VideoLibrary(make_model(tiny_vocabulary, temporal_alignment=False), make_processor(tiny_vocabulary), RULE)
    whole.add(folder / "clip_0.mp4")
    (hit,) = whole.search(STORY)
    assert hit.moments == () and set(hit.scores) == {"global"}
    with pytest.raises(ValueError, match="needs clip features and this index has none: ask for 'global'"):
        whole.search(STORY, score="aligned")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("First a man rides. Then he falls.", ["First a man rides.", "Then he falls."]),
        ("no full stop", ["no full stop"]),
        ("  He said “go.” They went!\nThe end ", ["He said “go.”", "They went!", "The end"]),
        ("It is 3.5 m long. Really?", ["It is 3.5 m long.", "Really?"]),
    ],
)
def test_a_text_is_cut_at_its_full_stops(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences and check_sentences(["One. Two.", "Three"]) == ["One. Two.", "Three"]


@pytest.mark.parametrize("story", ["", "   \n ", "...", "?!", [], ["?"]])
def test_an_empty_story_is_refused_with_an_example(story: str | list[str]) -> None:
    with pytest.raises(ValueError, match="the story is empty: write at least one sentence, such as"):
        check_sentences(story)


def test_too_much_is_refused_by_its_number() -> None:
    with pytest.raises(ValueError, match=f"has 100 sentences, at most {MAX_SENTENCES} are read"):
        check_sentences("A man rides. " * 100)
    with pytest.raises(ValueError, match=f"at most {MAX_CHARACTERS} are read"):
        check_sentences("a" * (MAX_CHARACTERS + 1))
    with pytest.raises(ValueError, match="sentence 1 of the story is None, expected words"):
        check_sentences(["a man", None])  # type: ignore[list-item]  # what a program may hand over


# -- formats -----------------------------------------------------------------------------------------------------------


def some_hits() -> Hits:
    moments = (
        Moment(0, "A man & a <dog>\nrun", 2.5, 5.0, 0.51, True, 0.01, ((2.5, 5.0), (3661.25, 3662.0))),
        Moment(1, "=1+1", 6.0, 7.0, 0.2, False, 0.6),
    )
    return Hits(
        [
            Hit("a -->.mp4", 0.7, 0.0, 60.0, 4000.0, 0, {"aligned": 0.7}, moments, (0.0, 1.0)),
            Hit("b.mp4", 0.5, 0.0, 60.0, 70.0, 0, {"aligned": 0.5}),
        ]
    )


def test_hits_are_written_in_every_format() -> None:
    hits = some_hits()
    text = FORMATTERS["text"](hits)
    assert "1. a -->.mp4  0:00:00 - 0:01:00 of 1:06:40" in text
    assert "0:00:02.5 - 0:00:05.0, 1:01:01.2 - 1:01:02.0  0.510" in text and "not found (nearest: 0:00:06.0" in text
    (first, second) = json.loads(FORMATTERS["json"](hits))
    assert first["moments"][0]["spans"] == [[2.5, 5.0], [3661.25, 3662.0]] and second["moments"] == []
    assert {"path", "start", "end", "score", "scores", "moments"} <= set(first)
    rows = FORMATTERS["csv"](hits).splitlines()
    assert rows[0].startswith("hit,path,") and "'=1+1,0,,," in FORMATTERS["csv"](hits), "no formula for a spreadsheet"
    vtt = FORMATTERS["vtt"](hits)
    assert vtt.startswith("WEBVTT\n\n") and "01:01:01.250 --> 01:01:02.000\nA man &amp; a &lt;dog&gt; run\n" in vtt
    assert vtt.count("-->") == 2 and "b.mp4" not in vtt
    edl = FORMATTERS["edl"](hits)
    assert "001  AX       V     C        00:00:02:12 00:00:05:00 00:00:00:00 00:00:02:13" in edl
    assert "* FROM CLIP NAME: a -->.mp4" in edl and "002  AX" in edl and "003" not in edl
    assert [FORMATTERS[name](Hits()) for name in ("text", "json")] == ["the index is empty", "[]"]
