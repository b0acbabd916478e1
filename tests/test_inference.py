"""Embeddings in one call: equal to the model's features, for any batch size, in input order, from any source.

Features are tested in test_modeling_lfvila.py, sources in test_video_reading_lfvila.py and
test_video_sources_lfvila.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import TEXT, VIDEO, tiny_config, tiny_model
from torch import nn
from torch.nn import functional as F
from video_files import write_video

from lfvila_hf import (
    LFVilaModel,
    LFVilaProcessor,
    LFVilaVideoError,
    LFVilaVideoProcessor,
    encode_paragraphs,
    encode_videos,
)

# Features of other batches of the same samples; the largest difference measured is 3e-7.
BATCH_NOISE = 1e-5
D, CLIPS = TEXT["hidden_size"], VIDEO["num_clips"]
PARAGRAPHS = [
    ["a man rides", "the ball is red", "then it is blue", "the end"],
    "a square in a box",
    ["first a circle", "then a square"],
    ["a woman", "rides", "to the box"],
    "blue",
]


@pytest.fixture
def processor(tiny_tokenizer: Any) -> LFVilaProcessor:
    height, width = VIDEO["image_size"]
    video_processor = LFVilaVideoProcessor(
        size={"height": height, "width": width}, num_frames=VIDEO["num_frames"], num_clips=CLIPS
    )
    return LFVilaProcessor(video_processor, tiny_tokenizer, max_sentences=4, max_sentence_length=10)


@pytest.fixture
def model(tiny_vocabulary: dict[str, int]) -> LFVilaModel:
    return tiny_model(LFVilaModel, tiny_config(text={"vocab_size": len(tiny_vocabulary)}))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{n}.mp4", 10 + 5 * n, size=(48, 80), first_number=100 * n) for n in range(5)]


def assert_close(found: torch.Tensor | None, expected: torch.Tensor) -> None:
    assert found is not None and found.shape == expected.shape
    assert found.dtype == torch.float32 and found.device.type == "cpu" and not found.requires_grad
    torch.testing.assert_close(found, expected, atol=BATCH_NOISE, rtol=0)


# -- videos ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_embeddings_of_videos_are_the_models_own_in_the_order_given(
    model: LFVilaModel, processor: LFVilaProcessor, files: list[Path], batch_size: int
) -> None:
    order = [3, 0, 4, 1, 2]
    found = encode_videos(model, processor, [files[n] for n in order], batch_size=batch_size)
    pixels = processor(videos=[files[n] for n in order])["pixel_values_videos"]
    with torch.no_grad():
        expected = model.get_video_features(pixels)
    assert_close(found.video_embeds, expected.video_embeds)
    assert_close(found.clip_embeds, expected.clip_embeds)
    assert found.clip_embeds is not None and found.clip_embeds.shape == (5, CLIPS, D)
    assert [metadata.source for metadata in found.metadata] == [str(files[n]) for n in order]
    assert [metadata.total_num_frames for metadata in found.metadata] == [10 + 5 * n for n in order]
    assert (found.video_embeds[0] - found.video_embeds[1]).abs().max() > 100 * BATCH_NOISE, "videos all look alike"


def test_any_source_is_a_video_and_one_alone_is_a_batch_of_one(
    model: LFVilaModel, processor: LFVilaProcessor, files: list[Path]
) -> None:
    expected = encode_videos(model, processor, files[:1])
    with files[0].open("rb") as opened:
        alone = [str(files[0]), files[0], files[0].read_bytes(), opened]
        for source in alone:
            assert_close(encode_videos(model, processor, source).video_embeds, expected.video_embeds)
    array = np.random.default_rng(0).integers(0, 255, (9, 30, 50, 3), dtype=np.uint8)
    one, listed = (encode_videos(model, processor, source) for source in (array, [array]))
    assert_close(one.video_embeds, listed.video_embeds)
    both = encode_videos(model, processor, np.stack([array, array[::-1]]), batch_size=1)
    assert_close(both.video_embeds[:1], one.video_embeds)
    assert len(both.metadata) == 2
    clips = encode_videos(model, processor, [[files[1], files[2], files[3], files[4]]])
    assert clips.video_embeds.shape == (1, D) and len(clips.metadata) == 1


def test_arguments_reach_the_video_processor(model: LFVilaModel, processor: LFVilaProcessor, files: list[Path]) -> None:
    once = encode_videos(model, processor, files[:2], training=True, seed=1)
    again = encode_videos(model, processor, files[:2], training=True, seed=1)
    assert torch.equal(once.video_embeds, again.video_embeds)
    assert not torch.equal(once.video_embeds, encode_videos(model, processor, files[:2]).video_embeds)


@pytest.mark.parametrize("given", ["seed", "generator", "nothing"])
@pytest.mark.parametrize("workers", [0, 2])
def test_random_draws_are_those_of_one_call_whatever_the_batch_size_and_the_threads(
    model: LFVilaModel, processor: LFVilaProcessor, files: list[Path], given: str, workers: int
) -> None:
    def arguments() -> dict[str, Any]:
        torch.manual_seed(5)
        made = {"seed": 7} if given == "seed" else {"generator": torch.Generator().manual_seed(7)}
        return {"training": True} | ({} if given == "nothing" else made)

    expected = model.get_video_features(processor(videos=files, **arguments())["pixel_values_videos"]).video_embeds
    after = torch.rand(1)
    for batch_size in (1, 2, 5):
        found = encode_videos(model, processor, files, batch_size=batch_size, num_workers=workers, **arguments())
        assert_close(found.video_embeds, expected.detach())
        assert torch.equal(torch.rand(1), after)  # and as many numbers were drawn
    grouped = encode_videos(model, processor, files, num_workers=workers, videos_kwargs=arguments())
    assert_close(grouped.video_embeds, expected.detach())


def test_decoding_runs_ahead_of_the_model_by_a_bounded_number_of_videos(
    model: LFVilaModel, processor: LFVilaProcessor, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    ahead: list[int] = []
    call = LFVilaVideoProcessor.preprocess

    def preprocess(self: Any, videos: Any, **kwargs: Any) -> Any:
        read.extend(videos)
        return call(self, videos, **kwargs)

    monkeypatch.setattr(LFVilaVideoProcessor, "preprocess", preprocess)
    encode = model.get_video_features

    def slow(pixels: torch.Tensor, **kwargs: Any) -> Any:
        expected = min(12, 2 * (len(ahead) + 1) + 2)
        deadline = time.monotonic() + 20
        while len(read) < expected and time.monotonic() < deadline:
            time.sleep(0.01)
        ahead.append(len(read))
        return encode(pixels, **kwargs)

    monkeypatch.setattr(model, "get_video_features", slow)
    encode_videos(model, processor, [files[0]] * 12, batch_size=2, num_workers=1)
    # Two in the batch and two that wait: the third place of the pool is that of the video just handed over.
    assert ahead[0] == 4 and ahead[-1] == 12 and ahead == sorted(ahead) and len(ahead) == 6 and read == [files[0]] * 12


def test_videos_of_different_lengths_are_batched_with_their_equals(
    model: LFVilaModel, processor: LFVilaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def video(frames: int) -> np.ndarray:
        return np.random.default_rng(frames).integers(0, 255, (frames, 30, 50, 3), dtype=np.uint8)

    videos = [video(8), video(8), video(16), video(16), video(16), video(8)]
    rates = [{"fps": float(place + 1)} for place in range(6)]
    sizes: list[tuple[int, ...]] = []
    encode = model.get_video_features

    def watch(pixels: torch.Tensor, **kwargs: Any) -> Any:
        sizes.append(tuple(pixels.shape[:2]))
        return encode(pixels, **kwargs)

    monkeypatch.setattr(model, "get_video_features", watch)
    whole = {"do_sample_frames": False}
    found = encode_videos(model, processor, videos, batch_size=4, video_metadata=rates, **whole)
    assert sizes == [(2, 8), (2, 16), (1, 16), (1, 8)]
    alone = [encode_videos(model, processor, [one], **whole).video_embeds for one in videos]
    assert_close(found.video_embeds, torch.cat(alone))
    assert [metadata.fps for metadata in found.metadata] == [1, 2, 3, 4, 5, 6]


def test_an_unusable_video_is_named(
    model: LFVilaModel, processor: LFVilaProcessor, files: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    for source in (broken, tmp_path / "absent.mp4"):
        with pytest.raises(LFVilaVideoError, match=source.name) as caught:
            encode_videos(model, processor, [*files[:3], source], batch_size=2)
        assert caught.value.source == str(source)


# -- paragraphs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_embeddings_of_paragraphs_are_the_models_own_whatever_else_is_in_the_batch(
    model: LFVilaModel, processor: LFVilaProcessor, batch_size: int
) -> None:
    found = encode_paragraphs(model, processor, PARAGRAPHS, batch_size=batch_size)
    inputs = processor(text=[[p] if isinstance(p, str) else p for p in PARAGRAPHS])
    with torch.no_grad():
        expected = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    assert found.sentence_mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]]
    assert torch.equal(found.sentence_mask, expected.sentence_mask)
    assert_close(found.text_embeds, expected.text_embeds)
    assert found.sentence_embeds is not None and found.sentence_embeds.shape == (5, 4, D)
    real = found.sentence_mask.bool()
    assert_close(found.sentence_embeds[real], expected.sentence_embeds[real])


def test_paragraphs_are_batched_by_length_and_come_back_in_their_order(
    model: LFVilaModel, processor: LFVilaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    encode = model.get_text_features

    def watch(ids: torch.Tensor, mask: torch.Tensor, **kwargs: Any) -> Any:
        shapes.append(tuple(ids.shape[:2]))
        return encode(ids, mask, **kwargs)

    expected = encode_paragraphs(model, processor, PARAGRAPHS, batch_size=1)
    monkeypatch.setattr(model, "get_text_features", watch)
    found = encode_paragraphs(model, processor, PARAGRAPHS, batch_size=2)
    assert shapes == [(2, 1), (2, 3), (1, 4)]  # 4, 1, 2, 3 and 1 sentences: nothing but one sentence is filled up
    assert_close(found.text_embeds, expected.text_embeds)
    assert found.sentence_mask.sum(1).tolist() == [4, 1, 2, 3, 1]


def test_a_bare_string_is_one_paragraph_of_one_sentence(model: LFVilaModel, processor: LFVilaProcessor) -> None:
    found = encode_paragraphs(model, processor, "a man rides")
    assert_close(found.text_embeds, encode_paragraphs(model, processor, [["a man rides"]]).text_embeds)
    assert found.sentence_mask.tolist() == [[1]]
    two = encode_paragraphs(model, processor, ("a man rides", "he falls"))
    assert two.sentence_mask.tolist() == [[1], [1]]


def test_embeddings_of_both_sides_are_what_similarity_takes(
    model: LFVilaModel, processor: LFVilaProcessor, files: list[Path]
) -> None:
    texts = encode_paragraphs(model, processor, PARAGRAPHS[:4], batch_size=3)
    videos = encode_videos(model, processor, files, batch_size=2)
    inputs = processor(text=[[p] if isinstance(p, str) else p for p in PARAGRAPHS[:4]], videos=files)
    with torch.no_grad():
        output = model(**inputs)
        for score in ("global", "aligned", "both"):
            found = model.similarity(texts, videos, score)
            torch.testing.assert_close(found, model.similarity(output, output, score), atol=BATCH_NOISE, rtol=0)
            assert found.shape == (4, 5)


def test_without_temporal_alignment_there_are_no_sentences_and_clips(
    processor: LFVilaProcessor, tiny_vocabulary: dict[str, int], files: list[Path]
) -> None:
    config = tiny_config(text={"vocab_size": len(tiny_vocabulary)}, temporal_alignment=False)
    model = tiny_model(LFVilaModel, config)
    texts, videos = encode_paragraphs(model, processor, PARAGRAPHS), encode_videos(model, processor, files[:1])
    assert texts.sentence_embeds is None and videos.clip_embeds is None
    assert texts.sentence_mask.shape == (5, 4)


# -- the model is left as it was -------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_every_module_keeps_its_mode_and_dropout_is_off_meanwhile(
    model: LFVilaModel, processor: LFVilaProcessor, files: list[Path], training: bool
) -> None:
    expected = encode_videos(model, processor, files[:2]), encode_paragraphs(model, processor, PARAGRAPHS)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.train(training)
    model.text_model.eval()  # a part that is frozen
    modes = [module.training for module in model.modules()]
    found = encode_videos(model, processor, files[:2]), encode_paragraphs(model, processor, PARAGRAPHS)
    assert torch.equal(found[0].video_embeds, expected[0].video_embeds)
    assert torch.equal(found[1].text_embeds, expected[1].text_embeds)
    assert [module.training for module in model.modules()] == modes and any(modes) == training
    with pytest.raises(LFVilaVideoError):
        encode_videos(model, processor, ["absent.mp4"])
    assert [module.training for module in model.modules()] == modes


def test_embeddings_can_be_trained_on(model: LFVilaModel, processor: LFVilaProcessor, files: list[Path]) -> None:
    probe = nn.Linear(D, 2)
    videos, texts = encode_videos(model, processor, files[:1]), encode_paragraphs(model, processor, "blue")
    assert videos.clip_embeds is not None
    for features in (videos.video_embeds, videos.clip_embeds, texts.text_embeds, texts.sentence_embeds):
        probe(features).sum().backward()
    assert probe.weight.grad is not None and probe.weight.grad.any()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_in_half_precision_gives_float32_features(
    model: LFVilaModel, processor: LFVilaProcessor, files: list[Path]
) -> None:
    model.to(torch.bfloat16)
    videos, texts = encode_videos(model, processor, files[:2]), encode_paragraphs(model, processor, PARAGRAPHS)
    for features in (videos.video_embeds, videos.clip_embeds, texts.text_embeds, texts.sentence_embeds):
        assert features is not None and features.dtype == torch.float32 and features.isfinite().all()


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_half_precision_is_close_to_single_and_touches_no_weight(
    model: LFVilaModel, processor: LFVilaProcessor, files: list[Path], weights: torch.dtype
) -> None:
    exact = encode_videos(model, processor, files), encode_paragraphs(model, processor, PARAGRAPHS)
    model.to(weights)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    videos = encode_videos(model, processor, files, dtype=torch.bfloat16)
    texts = encode_paragraphs(model, processor, PARAGRAPHS, dtype=torch.bfloat16)
    for found, expected in ((videos.video_embeds, exact[0].video_embeds), (texts.text_embeds, exact[1].text_embeds)):
        assert found.dtype == torch.float32 and not torch.equal(found, expected)
        assert F.cosine_similarity(found, expected).min() > 0.95
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# -- bad input -------------------------------------------------------------------------------------------------------


def test_nothing_to_encode_and_no_batch_size_are_refused(model: LFVilaModel, processor: LFVilaProcessor) -> None:
    with pytest.raises(ValueError, match="videos is empty: at least one video is needed"):
        encode_videos(model, processor, [])
    with pytest.raises(ValueError, match="paragraphs is empty, pass at least one"):
        encode_paragraphs(model, processor, [])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        encode_paragraphs(model, processor, ["a man"], batch_size=0)
    with pytest.raises(ValueError, match="sentence 0 of text 0 is empty"):
        encode_paragraphs(model, processor, "")
    with pytest.raises(ValueError, match="sentence 1 of text 2 is empty"):  # its place in the list, not in a batch
        encode_paragraphs(model, processor, [["a", "b", "c"], ["a", "b"], ["a", " "]], batch_size=1)
    with pytest.raises(ValueError, match="num_workers must be at least 0, got -1"):
        encode_videos(model, processor, ["a.mp4"], num_workers=-1)
    with pytest.raises(ValueError, match="dtype must be torch.bfloat16 or torch.float16, got torch.int8"):
        encode_paragraphs(model, processor, "a man", dtype=torch.int8)
    array = np.zeros((8, 30, 50, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="2 videos but 1 entries of video_metadata"):
        encode_videos(model, processor, [array, array], video_metadata=[{"fps": 1.0}])
    with pytest.raises(ValueError, match="and a generator; pass only one of them"):
        encode_videos(model, processor, [array], training=True, seed=1, generator=torch.Generator())
    with pytest.raises(ValueError, match="text 0 is an empty list"):
        encode_paragraphs(model, processor, [[]])


def test_a_progress_bar_is_shown_when_asked_for(
    model: LFVilaModel, processor: LFVilaProcessor, capfd: pytest.CaptureFixture[str]
) -> None:
    encode_paragraphs(model, processor, PARAGRAPHS, batch_size=2)
    assert capfd.readouterr().err == ""
    encode_paragraphs(model, processor, PARAGRAPHS, batch_size=2, progress=True)
    assert "encoding paragraphs: 100%" in capfd.readouterr().err


def test_a_list_of_pictures_is_one_video_at_any_batch_size(model: LFVilaModel, processor: LFVilaProcessor) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (20, 30, 50, 3), dtype=np.uint8)
    expected = encode_videos(model, processor, pictures)
    assert expected.video_embeds.shape == (1, D)
    assert_close(encode_videos(model, processor, list(pictures), batch_size=8).video_embeds, expected.video_embeds)


def test_a_sequence_that_reads_its_sources_is_asked_batch_by_batch(
    model: LFVilaModel, processor: LFVilaProcessor, files: list[Path]
) -> None:
    class Column(Sequence[Any]):
        asked: list[slice] = []

        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, places: Any) -> Any:
            self.asked.append(places)
            return files[places]

    column = Column()
    found = encode_videos(model, processor, column, batch_size=2)
    assert_close(found.video_embeds, encode_videos(model, processor, files).video_embeds)
    assert column.asked == [slice(0, 2), slice(2, 4), slice(4, 6)]


def test_videos_and_paragraphs_may_come_from_generators(
    model: LFVilaModel, processor: LFVilaProcessor, files: list[Path]
) -> None:
    found = encode_videos(model, processor, (file for file in files), batch_size=2)
    assert_close(found.video_embeds, encode_videos(model, processor, files).video_embeds)
    texts = encode_paragraphs(model, processor, (text for text in PARAGRAPHS))
    assert_close(texts.text_embeds, encode_paragraphs(model, processor, PARAGRAPHS).text_embeds)
