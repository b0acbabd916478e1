"""`SentenceTransformer` loads a folder that is ready for the Hub, and embeds texts and videos as our own code does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VIDEO, tiny_config, tiny_model
from video_files import write_video

from lfvila_hf import LFVilaModel, LFVilaProcessor, LFVilaVideoProcessor, encode_paragraphs, encode_videos
from lfvila_hf.hub.publishing import SENTENCE_TRANSFORMER, add_sentence_transformer

pytest.importorskip("sentence_transformers", reason="sentence-transformers (the extra of that name) is not installed")

from sentence_transformers import SentenceTransformer

pytestmark = pytest.mark.slow  # its import takes seconds


def test_texts_and_videos_are_embedded_as_by_our_own_code(tmp_path: Path, tiny_tokenizer: Any) -> None:
    size = dict(zip(("height", "width"), VIDEO["image_size"], strict=True))
    videos = LFVilaVideoProcessor(size=size, num_frames=VIDEO["num_frames"], num_clips=VIDEO["num_clips"])
    processor = LFVilaProcessor(videos, tiny_tokenizer, max_sentence_length=8)
    model = tiny_model(LFVilaModel, tiny_config(text={"vocab_size": len(tiny_tokenizer)}))
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    add_sentence_transformer(tmp_path)
    assert json.loads((tmp_path / "modules.json").read_text()) == SENTENCE_TRANSFORMER["modules.json"]

    embedder = SentenceTransformer(str(tmp_path), device="cpu")
    texts = ["a man rides a red square", "the ball", "it falls"]
    expected = encode_paragraphs(model, processor, texts).text_embeds
    found = embedder.encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    files = [str(write_video(tmp_path / f"{count}.mp4", count)) for count in (12, 30)]
    expected_videos = encode_videos(model, processor, files).video_embeds
    found_videos = embedder.encode([{"video": one} for one in files], convert_to_tensor=True)
    torch.testing.assert_close(found_videos, expected_videos, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        embedder.similarity(found, found_videos), expected @ expected_videos.T, atol=1e-5, rtol=0
    )
