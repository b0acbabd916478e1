"""`SentenceTransformer` on a folder that is ready for the Hub: embeddings as by our own code, and its Trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_models import VIDEO, tiny_config, tiny_model
from video_files import write_video

from lfvila_hf import LFVilaModel, LFVilaProcessor, LFVilaVideoProcessor, encode_paragraphs, encode_videos
from lfvila_hf.hub.publishing import SENTENCE_TRANSFORMER, add_sentence_transformer

pytest.importorskip("sentence_transformers", reason="sentence-transformers (the extra of that name) is not installed")

from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)

pytestmark = pytest.mark.slow  # its import takes seconds
TEXTS = ["a man rides a red square", "the ball", "it falls", "a man"]


@pytest.fixture
def folder(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    size = dict(zip(("height", "width"), VIDEO["image_size"], strict=True))
    videos = LFVilaVideoProcessor(size=size, num_frames=VIDEO["num_frames"], num_clips=VIDEO["num_clips"])
    path = tmp_path / "checkpoint"
    LFVilaProcessor(videos, tiny_tokenizer, max_sentence_length=8).save_pretrained(path)
    tiny_model(LFVilaModel, tiny_config(text={"vocab_size": len(tiny_tokenizer)})).save_pretrained(path)
    add_sentence_transformer(path)
    return path


@pytest.fixture
def videos(tmp_path: Path) -> list[str]:
    return [str(write_video(tmp_path / f"{count}.mp4", count)) for count in (12, 20, 30, 40)]


def test_texts_and_videos_are_embedded_as_by_our_own_code(folder: Path, videos: list[str]) -> None:
    assert json.loads((folder / "modules.json").read_text()) == SENTENCE_TRANSFORMER["modules.json"]
    embedder = SentenceTransformer(str(folder), device="cpu")
    model, processor = LFVilaModel.from_pretrained(folder), LFVilaProcessor.from_pretrained(folder)
    expected = encode_paragraphs(model, processor, TEXTS).text_embeds
    found = embedder.encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    expected_videos = encode_videos(model, processor, videos).video_embeds
    found_videos = embedder.encode([{"video": one} for one in videos], convert_to_tensor=True)
    torch.testing.assert_close(found_videos, expected_videos, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        embedder.similarity(found, found_videos), expected @ expected_videos.T, atol=1e-5, rtol=0
    )


def test_an_empty_text_has_an_embedding_that_no_other_text_depends_on(folder: Path) -> None:
    embedder = SentenceTransformer(str(folder), device="cpu")
    found = embedder.encode(["", *TEXTS, "  "], convert_to_tensor=True)
    assert torch.isfinite(found).all() and torch.equal(found[0], found[-1])
    torch.testing.assert_close(found[1:-1], embedder.encode(TEXTS, convert_to_tensor=True), atol=1e-6, rtol=0)
    assert embedder.tokenize(TEXTS)["attention_mask"].shape == (4, 8)


RANKING = losses.MultipleNegativesRankingLoss
LOSSES: dict[str, Callable[[Any], Any]] = {
    "plain": RANKING,
    "cached": lambda model: losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2),
    "Matryoshka": lambda model: losses.MatryoshkaLoss(model, RANKING(model), [64, 16]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("pairs", ["text and text", "text and video"])
def test_its_trainer_trains_with_text_and_video(
    pairs: str, loss: str, folder: Path, videos: list[str], tmp_path: Path
) -> None:
    embedder = SentenceTransformer(str(folder), device="cpu")
    other = ["the man rides", "a ball", "it is a ball", "man"]
    columns = {"text": TEXTS, "other": other if pairs == "text and text" else [{"video": one} for one in videos]}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
    )
    before = {name: value.clone() for name, value in embedder.state_dict().items()}
    trainer = SentenceTransformerTrainer(
        model=embedder, args=arguments, train_dataset=Dataset.from_dict(columns), loss=LOSSES[loss](embedder)
    )
    assert 0 < trainer.train().training_loss < 20
    moved = {name for name, value in embedder.state_dict().items() if not torch.equal(value, before[name])}
    assert any("text_projection" in name for name in moved)
    assert any("video_model" in name for name in moved) == (pairs == "text and video")
