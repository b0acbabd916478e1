"""Our checkpoints under MTEB: its own mock tasks of videos and texts, against embeddings made by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VIDEO, tiny_config, tiny_model
from video_files import write_video

from lfvila_hf import LFVilaModel, LFVilaProcessor, LFVilaVideoProcessor, encode_paragraphs, encode_videos

pytest.importorskip("mteb", reason="mteb (the extra of that name) is not installed")

import mteb
from datasets import Dataset, Video
from mteb.mocks.mock_tasks import MockVideoRetrievalT2V, MockVideoRetrievalV2T, MockVideoZeroshotClassificationTask
from safetensors.torch import load_file, save_file

from lfvila_hf.hub.mteb_model import LFVilaMTEB, split_sentences

pytestmark = pytest.mark.slow  # importing MTEB takes seconds


@pytest.fixture
def folder(tmp_path: Path, tiny_tokenizer: Any) -> str:
    size = dict(zip(("height", "width"), VIDEO["image_size"], strict=True))
    videos = LFVilaVideoProcessor(size=size, num_frames=VIDEO["num_frames"], num_clips=VIDEO["num_clips"])
    LFVilaProcessor(videos, tiny_tokenizer, max_sentence_length=8).save_pretrained(tmp_path)
    tiny_model(LFVilaModel, tiny_config(text={"vocab_size": len(tiny_tokenizer)})).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("task", [MockVideoRetrievalT2V, MockVideoRetrievalV2T, MockVideoZeroshotClassificationTask])
def test_its_video_tasks_run_our_checkpoint(task: Any, folder: str) -> None:
    result = mteb.evaluate(LFVilaMTEB(folder), task(), cache=None, co2_tracker=False)
    (entry,) = result.task_results
    scores = [score["main_score"] for split in entry.scores.values() for score in split]
    assert scores and all(0 <= score <= 1 for score in scores)


def test_a_checkpoint_without_all_weights_is_refused(folder: str) -> None:
    weights = load_file(f"{folder}/model.safetensors")
    del weights["video_projection.weight"]
    save_file(weights, f"{folder}/model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks the weights video_projection.weight\. Evaluate a whole checkpoint"):
        LFVilaMTEB(folder)


def test_rows_are_embedded_as_by_hand(folder: str, tmp_path: Path) -> None:
    encoder = LFVilaMTEB(folder, batch_size=2)
    files = [str(write_video(tmp_path / f"{count}.mp4", count)) for count in (12, 20, 30)]
    texts = ["A man rides. He falls!", "The ball", "Is it red? Is it blue?"]
    dataset = Dataset.from_dict({"text": texts, "video": files}).cast_column("video", Video())

    class Loader:
        def __init__(self, *columns: str) -> None:
            self.dataset = dataset.select_columns(list(columns))

    paragraphs = [["A man rides.", "He falls!"], ["The ball"], ["Is it red?", "Is it blue?"]]
    text = encode_paragraphs(encoder.model, encoder.processor, paragraphs, batch_size=2).text_embeds
    video = encode_videos(encoder.model, encoder.processor, files, batch_size=2).video_embeds
    assert torch.equal(encoder.encode(Loader("text")), text)
    assert torch.equal(encoder.encode(Loader("video")), video)
    assert torch.equal(encoder.encode(Loader("text", "video")), text + video)
    assert encoder.similarity(text, video).shape == (3, 3)
    meta = encoder.mteb_model_meta
    assert meta.embed_dim == 64 and set(meta.modalities) == {"video", "text"}
    with pytest.raises(ValueError, match="texts and videos"):
        Empty = type("Empty", (), {"dataset": Dataset.from_dict({"audio": [1]})})
        encoder.encode(Empty())


class Rows:
    """A loader as MTEB hands it over."""

    def __init__(self, **columns: Any) -> None:
        self.dataset = Dataset.from_dict(columns)


def test_two_checkpoints_of_one_folder_name_have_two_revisions(
    folder: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # MTEB looks stored results up by name and revision.
    other = tmp_path_factory.mktemp("other") / Path(folder).name
    shutil.copytree(folder, other)
    first, same = (LFVilaMTEB(one).mteb_model_meta for one in (folder, str(other)))
    assert (first.name, first.revision) == (same.name, same.revision)
    model = LFVilaModel.from_pretrained(other)
    with torch.no_grad():
        model.video_projection.weight.mul_(2)
    model.save_pretrained(other)
    changed = LFVilaMTEB(str(other)).mteb_model_meta
    assert changed.name == first.name and changed.revision != first.revision


def test_a_blank_text_has_an_embedding_and_ends_no_evaluation(folder: str) -> None:
    encoder = LFVilaMTEB(folder)
    texts = ["", "A man rides. He falls!", " ", "The ball"]
    found = encoder.encode(Rows(text=texts))
    assert torch.isfinite(found).all() and torch.equal(found[0], found[2])
    assert torch.equal(found[[1, 3]], encoder.encode(Rows(text=[texts[1], texts[3]])))
    assert encoder.encode(Rows(text=["", ""])).shape == (2, 64)


@pytest.mark.parametrize(("given", "sizes"), [({}, [2, 1]), ({"batch_size": 1}, [1, 1, 1]), ({"batch_size": 3}, [3])])
def test_the_callers_batch_size_is_heeded(
    given: dict[str, int], sizes: list[int], folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = LFVilaMTEB(folder, batch_size=2)
    seen: list[int] = []
    features = encoder.model.get_video_features
    monkeypatch.setattr(
        encoder.model,
        "get_video_features",
        lambda pixels, **kwargs: (seen.append(len(pixels)), features(pixels, **kwargs))[1],
    )
    encoder.encode(Rows(video=[str(write_video(tmp_path / f"{count}.mp4", count)) for count in (12, 20, 30)]), **given)
    assert seen == sizes


def test_sentences_end_where_a_space_follows_the_stop() -> None:
    assert split_sentences("He pays 3.50 now. Why?  Because!") == ["He pays 3.50 now.", "Why?", "Because!"]
    assert split_sentences("  ") == []
