"""ShapeTales as a folder: annotations, vocabulary, and what a second call repairs or refuses.

Plan, pictures and files have their own tests; how the annotation formats are read is tested with the loaders.
Everything is drawn small: 32 x 48 pixels, 4 fps.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest

from lfvila_hf.shapetales import ShapeTales, build_vocabulary, generate, load_shapetales, make_shapetales
from lfvila_hf.shapetales.rendering import StoryRenderer
from lfvila_hf.shapetales.story_plan import Story, StoryParameters, plan_stories, story_words

TINY = {
    "train_stories": 6,
    "validation_stories": 4,
    "test_stories": 8,
    "min_seconds": 0.5,
    "max_seconds": 1.0,
    "fps": 4,
    "height": 32,
    "width": 48,
}


@pytest.fixture(scope="module")
def tales(tmp_path_factory: pytest.TempPathFactory) -> ShapeTales:
    return make_shapetales(tmp_path_factory.mktemp("tales") / "data", num_workers=1, progress=False, **TINY)


@pytest.fixture
def own_tales(tmp_path: Path) -> ShapeTales:
    """A folder that a test may damage."""
    return make_shapetales(tmp_path / "data", num_workers=1, progress=False, **TINY)


def all_files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def first_frame(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)


def test_twins_are_freshly_drawn(tales: ShapeTales) -> None:
    by_id = {story.clip_id: story for story in tales.stories["test"]}
    pairs = tales.twin_pairs("test")
    assert len(pairs) == 2
    for one, other in pairs:
        place = by_id[other].events.index(by_id[one].events[0])
        first = first_frame(tales.clips / one / f"{one}.0.mp4")
        again = first_frame(tales.clips / other / f"{other}.{place}.mp4")
        assert np.abs(first - again).mean() > 2, "more than noise apart"


def test_annotation_files_are_json_lines_of_the_released_formats(tales: ShapeTales) -> None:
    for split, stories in tales.stories.items():
        rows = [json.loads(line) for line in tales.annotations(split).read_text().splitlines()]
        assert rows == tales.split_rows(split)
        assert [row["clip_id"] for row in rows] == [story.clip_id for story in stories]
        lists = [json.loads(line) for line in tales.pretraining_annotations(split).read_text().splitlines()]
        for row, clips in zip(rows, lists, strict=True):
            assert (tales.videos / f"{row['clip_id']}.mp4").is_file()
            assert [clip["text"] for clip in clips] == row["text"]
            assert all((tales.clips / row["clip_id"] / clip["clip_id"]).is_file() for clip in clips)


def test_two_workers_write_the_same_files_as_one(
    tales: ShapeTales, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "_STORIES_PER_WORKER", 8)
    here, render = os.getpid(), StoryRenderer.__call__

    def elsewhere(self: StoryRenderer, story: Story) -> object:
        assert os.getpid() != here, "nothing is rendered in this process"
        return render(self, story)

    monkeypatch.setattr(StoryRenderer, "__call__", elsewhere)
    make_shapetales(tmp_path, num_workers=2, progress=False, **TINY)
    assert all_files(tmp_path) == all_files(tales.root)


def _note(row: dict[str, object], video: Path) -> None:
    (video.parents[1] / "annotations" / f"{row['clip_id']}.size").write_text(str(video.stat().st_size))


@pytest.mark.parametrize("workers", [1, 2])
def test_something_can_follow_every_story_in_its_process(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "_STORIES_PER_WORKER", 8)
    tales = make_shapetales(tmp_path, num_workers=workers, progress=False, after_story=_note, **TINY)
    for rows in map(tales.split_rows, tales.stories):
        for row in rows:
            size = (tmp_path / "annotations" / f"{row['clip_id']}.size").read_text()
            assert int(size) == tales.video_path(row["clip_id"]).stat().st_size


def test_clip_files_can_be_left_out(tmp_path: Path) -> None:
    tales = make_shapetales(tmp_path, num_workers=1, progress=False, clip_files=False, **TINY)
    assert not list(tales.clips.iterdir())
    assert tales.annotations("test").is_file()
    with pytest.raises(ValueError, match="clip_files=False"):
        tales.pretraining_annotations("test")


def test_the_vocabulary_is_complete_small_and_spells_what_it_does_not_know(tales: ShapeTales) -> None:
    tokenizer = tales.word_tokenizer()
    used = {
        word
        for rows in map(tales.split_rows, tales.stories)
        for row in rows
        for text in row["text"]
        for word in text.lower().replace(",", "").rstrip(".").split()
    }
    assert used <= set(story_words())
    assert 100 <= len(story_words()) <= 200
    for word in story_words():
        assert tokenizer.tokenize(word) == [word]
    assert tokenizer.tokenize("Zebra 7!") == ["z", "##e", "##b", "##r", "##a", "7", "!"]
    ids = tokenizer("A zebra, unseen; a red star falls.")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_a_vocabulary_can_take_in_the_words_of_other_texts() -> None:
    tokens = build_vocabulary(["A man rides his horse; Café."])
    assert {"horse", "rides", "cafe"} <= set(tokens)
    assert tokens[: len(build_vocabulary())] == build_vocabulary(), "known tokens keep their numbers"
    assert len(set(tokens)) == len(tokens)


def rendered_again(tales: ShapeTales, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Call `make_shapetales` once more and name the stories that it rendered."""
    names = []
    render = StoryRenderer.__call__

    def counting(self: StoryRenderer, story: Story) -> object:
        names.append(story.clip_id)
        return render(self, story)

    monkeypatch.setattr(StoryRenderer, "__call__", counting)
    make_shapetales(tales.root, num_workers=1, progress=False, **TINY)
    monkeypatch.undo()
    return names


def test_a_second_call_renders_nothing(own_tales: ShapeTales, monkeypatch: pytest.MonkeyPatch) -> None:
    before = all_files(own_tales.root)
    assert rendered_again(own_tales, monkeypatch) == []
    assert all_files(own_tales.root) == before


def test_missing_truncated_and_damaged_files_are_rendered_again_and_no_others(
    own_tales: ShapeTales, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: content for name, content in all_files(own_tales.root).items() if name != "files.jsonl"}
    own_tales.video_path("train_00001").unlink()
    truncated = own_tales.clips / "test_00002" / "test_00002.1.mp4"
    truncated.write_bytes(truncated.read_bytes()[:-20])
    damaged = own_tales.video_path("validation_00000")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    assert rendered_again(own_tales, monkeypatch) == ["train_00001", "validation_00000", "test_00002"]
    after = {name: content for name, content in all_files(own_tales.root).items() if name != "files.jsonl"}
    assert after == before
    assert rendered_again(own_tales, monkeypatch) == []


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    render = StoryRenderer.__call__

    def failing(self: StoryRenderer, story: Story) -> object:
        if story.clip_id == "validation_00001":
            raise KeyboardInterrupt
        return render(self, story)

    monkeypatch.setattr(StoryRenderer, "__call__", failing)
    with pytest.raises(KeyboardInterrupt):
        make_shapetales(tmp_path / "data", num_workers=1, progress=False, **TINY)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is not finished"):
        load_shapetales(tmp_path / "data")
    ledger = tmp_path / "data" / "files.jsonl"
    ledger.write_text(ledger.read_text() + '{"clip_id": "validation_0')  # killed while writing
    half = ShapeTales(tmp_path / "data", StoryParameters(**TINY), plan_stories(StoryParameters(**TINY)))
    names = rendered_again(half, monkeypatch)
    assert names[0] == "validation_00001"
    assert len(names) == 19 - 7
    assert not list((tmp_path / "data").glob(".unfinished*"))
    assert rendered_again(half, monkeypatch) == []


def test_other_parameters_are_refused_and_named(own_tales: ShapeTales) -> None:
    before = all_files(own_tales.root)
    with pytest.raises(ValueError, match="fps is 4 there and 5 here"):
        make_shapetales(own_tales.root, num_workers=1, progress=False, **{**TINY, "fps": 5})
    with pytest.raises(ValueError, match="train_stories is 6 there and 7 here"):
        make_shapetales(own_tales.root, num_workers=1, progress=False, **{**TINY, "train_stories": 7})
    assert all_files(own_tales.root) == before


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is not empty and has no manifest"):
        make_shapetales(tmp_path, num_workers=1, progress=False, **TINY)
    assert all_files(tmp_path) == {"holiday.mp4": b"mine"}


@pytest.mark.parametrize("manifest", ["[]", "{", '{"name": "other"}'])
def test_a_foreign_manifest_is_refused(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ValueError, match="manifest.json"):
        make_shapetales(tmp_path, num_workers=1, progress=False, **TINY)


def test_a_finished_folder_opens_as_it_was_made(tales: ShapeTales) -> None:
    assert load_shapetales(tales.root) == tales


def test_stories_of_another_version_are_not_opened(own_tales: ShapeTales, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "BENCHMARK_VERSION", 999)
    with pytest.raises(ValueError, match="expected 999"):
        load_shapetales(own_tales.root)
    with pytest.raises(ValueError, match="version is 1 there and 999 here"):
        make_shapetales(own_tales.root, num_workers=1, progress=False, **TINY)


def test_stories_drawn_differently_are_not_opened(own_tales: ShapeTales, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(generate.SPLIT_SEEDS, "test", 1)
    with pytest.raises(ValueError, match="fingerprint"):
        load_shapetales(own_tales.root)


def test_a_folder_that_was_never_made_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no manifest\.json"):
        load_shapetales(tmp_path)


def test_a_damaged_ledger_is_named(own_tales: ShapeTales) -> None:
    (own_tales.root / "files.jsonl").write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"files\.jsonl is damaged"):
        make_shapetales(own_tales.root, num_workers=1, progress=False, **TINY)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"train_stories": -1}, "train_stories is -1"),
        ({"test_stories": 10}, "test_stories is 10, expected a multiple of 4"),
        ({"train_twins": 1.5}, "train_twins is 1.5"),
        ({"min_clips": 1}, "min_clips is 1"),
        ({"min_clips": 9}, "min_clips is 9 and max_clips 8"),
        ({"fps": 0}, "fps is 0"),
        ({"min_seconds": 0.1}, "clips last 0.1 to 3.0 seconds"),
        ({"max_seconds": 1.0}, "clips last 2.0 to 1.0 seconds"),
        ({"height": 97}, "height is 97, expected an even number"),
        ({"width": 16}, "width is 16"),
        ({"crf": 60}, "crf is 60"),
    ],
)
def test_parameters_that_cannot_be_drawn_are_errors_with_their_value(
    parameters: dict[str, float], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        make_shapetales(tmp_path / "data", progress=False, **parameters)
    assert not (tmp_path / "data").exists()


def test_unknown_splits_and_numbers_of_workers_are_errors(tales: ShapeTales, tmp_path: Path) -> None:
    for call in (tales.split_rows, tales.annotations, tales.pretraining_annotations, tales.twin_pairs):
        with pytest.raises(ValueError, match="split is 'dev', expected one of train, validation, test, query"):
            call("dev")
    with pytest.raises(ValueError, match="num_workers is 0"):
        make_shapetales(tmp_path / "data", num_workers=0, progress=False, **TINY)
