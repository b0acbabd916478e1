"""One contract for every encoder family, on small random weights; then what each family needs of its own.

Families are loaded from checkpoints as `lfvila-hf index --model` does; PE-Video, whose released pictures' model
needs timm, from an object.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_encoders import FAMILIES, make_family, save_family, save_sentence_transformer
from small_library import make_checkpoint, make_model, make_processor
from tiny_models import tiny_config, tiny_model

from lfvila_hf import LFVilaForVideoClassification, encode_paragraphs, encode_videos
from lfvila_hf.search.encoder_families import FrameSettings, load
from lfvila_hf.search.encoders import StoryEncoder, as_encoder, load_encoder

ALL = ["lfvila", *FAMILIES, pytest.param("sentence-transformers", marks=pytest.mark.extras), "own"]
SENTENCES = ["a man rides", "the ball is red", "then it is blue"]
LONG = " ".join(["a man"] * 40)


class OwnEncoder:
    """Two methods, no model: words and mean colours."""

    frames_per_clip = 2

    def encode_sentences(self, sentences: list[str]) -> np.ndarray:
        return np.array([[len(text), text.count("a") + 1, 1, 2] for text in sentences], np.float64)

    def encode_clips(self, clips: Any) -> list[list[float]]:
        assert all(len(clip.seconds) == len(clip.frames) == 2 for clip in clips)
        return [[*clip.frames.float().mean((0, 2, 3)).tolist(), 1.0] for clip in clips]


@pytest.fixture(scope="module", params=ALL)
def encoder(request: Any, tmp_path_factory: Any, tiny_vocabulary: dict[str, int]) -> StoryEncoder:
    return make_encoder(request.param, tmp_path_factory.mktemp("encoder"), tiny_vocabulary)


def make_encoder(name: str, folder: Path, vocabulary: dict[str, int]) -> StoryEncoder:
    if name == "own":
        return as_encoder(OwnEncoder())
    if name == "lfvila":
        return load_encoder(str(make_checkpoint(folder, vocabulary)))
    if name == "sentence-transformers":
        pytest.importorskip("sentence_transformers")
        return load_encoder(str(save_sentence_transformer(folder, vocabulary)))
    if name == "pe_video":
        model, *processor = make_family(name, vocabulary)
        return as_encoder(model, tuple(processor))
    return load_encoder(str(save_family(name, folder, vocabulary)))


def clips_of(encoder: StoryEncoder, count: int, seed: int = 0) -> torch.Tensor:
    """Vectors of prepared clips; for LF-VILA the segment vectors."""
    frames = prepared(encoder, count, seed)
    return encode(encoder, frames)


def prepared(encoder: StoryEncoder, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    per = encoder.num_frames or encoder.frames_per_clip
    coarse = torch.randint(0, 256, (count * per, 3, 5, 7), generator=generator).float()
    pictures = torch.nn.functional.interpolate(coarse, (50, 70), mode="bilinear").to(torch.uint8)
    return torch.stack([encoder.prepare(picture) for picture in pictures]).unflatten(0, (count, per))


def encode(encoder: StoryEncoder, frames: torch.Tensor) -> torch.Tensor:
    if encoder.num_frames:
        return encoder.encode_segments(frames)[0]
    return encoder.encode_clips(frames, [[float(n) for n in range(frames.shape[1])]] * len(frames))


# -- the contract ------------------------------------------------------------------------------------------------------


def test_sentences_and_clips_are_unit_vectors_of_one_width(encoder: StoryEncoder) -> None:
    sentences, clips = encoder.encode_sentences(SENTENCES), clips_of(encoder, 3)
    assert sentences.shape == clips.shape == (3, encoder.width)
    for vectors in (sentences, clips):
        assert vectors.dtype == torch.float32 and not vectors.requires_grad
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
        assert (vectors[0] - vectors[1]).abs().max() > 1e-4, "different input, different vector"


def test_a_vector_does_not_depend_on_its_batch(encoder: StoryEncoder) -> None:
    sentences = encoder.encode_sentences(SENTENCES)
    for number, sentence in enumerate(SENTENCES):
        torch.testing.assert_close(encoder.encode_sentences([sentence])[0], sentences[number], atol=1e-5, rtol=0)
    frames = prepared(encoder, 3)
    clips = encode(encoder, frames)
    for number in range(3):
        alone = encode(encoder, frames[number : number + 1])
        torch.testing.assert_close(alone[0], clips[number], atol=1e-5, rtol=0)


def test_text_beyond_the_limit_is_cut_and_said(encoder: StoryEncoder) -> None:
    assert encoder.notes(["a"]) == []
    assert encoder.encode_sentences([LONG]).shape == (1, encoder.width)
    if encoder.text_limit:
        (note,) = encoder.notes(["a man", LONG, "a ball", LONG])
        assert note == f"only the first {encoder.text_limit} tokens of sentence 2, 4 were read"


def test_the_order_of_frames_matters_where_the_model_reads_it(encoder: StoryEncoder) -> None:
    frames = prepared(encoder, 1)
    difference = (encode(encoder, frames) - encode(encoder, frames.flip(1))).abs().max()
    reads_order = encoder.num_frames or type(encoder).__name__ in ("VideoTextEncoder", "PEVideoEncoder")
    assert (difference > 1e-5) == bool(reads_order), difference


def test_the_fingerprint_is_of_the_weights(encoder: StoryEncoder, tmp_path: Path, tiny_vocabulary: Any) -> None:
    assert len(encoder.fingerprint) == 64 and encoder.dtype == "float32" and encoder.name
    if encoder.checkpoint:
        assert load_encoder(encoder.checkpoint).fingerprint == encoder.fingerprint
        file = next(Path(encoder.checkpoint).rglob("model.safetensors"))
        before = file.read_bytes()
        weights = load_file(file)
        changed = {name: one * 1.001 if one.is_floating_point() else one for name, one in weights.items()}
        save_file(changed, file, {"format": "pt"})
        assert load_encoder(encoder.checkpoint).fingerprint != encoder.fingerprint
        file.write_bytes(before)


# -- the families ------------------------------------------------------------------------------------------------------


def test_lfvila_gives_the_numbers_of_its_own_functions(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    from video_files import write_video

    from lfvila_hf.search.embedding import VideoEmbedder
    from lfvila_hf.search.segments import find_videos

    path = write_video(tmp_path / "a.mp4", 60, size=(24, 40))
    model, processor = make_model(tiny_vocabulary), make_processor(tiny_vocabulary)
    encoder = as_encoder(model, processor)
    files, _ = find_videos(path, "")
    ((_, _, segments),) = VideoEmbedder(encoder).embed(files)
    videos = encode_videos(model.model, processor, str(path))
    np.testing.assert_allclose(segments[0].vector, videos.video_embeds[0], atol=1e-6)
    np.testing.assert_allclose(segments[0].clips, videos.clip_embeds[0], atol=1e-6)
    story = encode_paragraphs(model.model, processor, [SENTENCES])
    rows, paragraph = encoder.encode_story(SENTENCES)
    torch.testing.assert_close(rows, story.sentence_embeds[0])
    torch.testing.assert_close(paragraph, story.text_embeds[0])


@pytest.mark.parametrize("name", ["clip", "siglip", "chinese_clip", "align"])
def test_pictures_are_those_of_the_checkpoints_own_processor(name: str, tiny_vocabulary: dict[str, int]) -> None:

    _, _, settings = make_family(name, tiny_vocabulary)
    own_class = getattr(transformers, settings["image_processor_type"] + "Pil")
    processor = own_class(**{key: value for key, value in settings.items() if key != "image_processor_type"})
    frames = FrameSettings(settings, 32)
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 9) * 255, (60, 90), mode="bilinear")[0].to(
        torch.uint8
    )
    expected = processor(images=[picture], return_tensors="pt")["pixel_values"][0]
    found = frames.normalize(frames.resize(picture))
    assert found.shape == expected.shape
    assert (found - torch.as_tensor(expected)).abs().max() < 4 / 255 / 0.26, (
        "three levels of 255: rounding of the resize"
    )


def test_features_are_the_means_of_the_models_own(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    encoder = make_encoder("clip", tmp_path, tiny_vocabulary)
    frames = prepared(encoder, 2)
    with torch.inference_mode():
        pixels = encoder.frames.normalize(frames.flatten(0, 1))
        features = encoder.model.get_image_features(pixel_values=pixels).pooler_output
    unit = torch.nn.functional.normalize(features, dim=-1).unflatten(0, (2, 4)).mean(1)
    torch.testing.assert_close(encode(encoder, frames), torch.nn.functional.normalize(unit, dim=-1))


def test_a_fixed_length_of_text_is_kept_for_siglip(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    encoder = make_encoder("siglip", tmp_path, tiny_vocabulary)
    inputs = encoder.tokenizer(["a man"], padding="max_length", max_length=12, return_tensors="pt")
    with torch.inference_mode():
        features = encoder.model.get_text_features(input_ids=inputs["input_ids"]).pooler_output
    expected = torch.nn.functional.normalize(features, dim=-1)
    torch.testing.assert_close(encoder.encode_sentences(["a man"]), expected, atol=1e-5, rtol=0)


def test_a_longer_story_of_lfvila_is_read_in_paragraphs(tiny_vocabulary: dict[str, int]) -> None:
    encoder = as_encoder(make_model(tiny_vocabulary), make_processor(tiny_vocabulary))
    story = [*SENTENCES, "a circle", "the end", "a woman rides left", "in a blue box"]
    rows, paragraph = encoder.encode_story(story)
    assert rows.shape == (7, encoder.width) and paragraph.norm().item() == pytest.approx(1)
    for number, sentence in enumerate(story):
        torch.testing.assert_close(rows[number], encoder.encode_sentences([sentence])[0], atol=1e-5, rtol=0)
    assert "this story of 7 was read in 2 paragraphs" in encoder.notes(story)[0]
    together = encoder.encode_stories([["a man"], story, SENTENCES])
    for one, alone in zip(together, (["a man"], story, SENTENCES), strict=True):
        torch.testing.assert_close(one, encoder.encode_story(alone), atol=1e-5, rtol=0)


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["missing", "shape", "layers", "nan", "words", "processor"])
def test_a_checkpoint_that_is_not_whole_is_refused(
    change: str, tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    folder = save_family("clip", tmp_path, tiny_vocabulary)
    weights = load_file(folder / "model.safetensors")
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    expected = {
        "missing": f"1 weights are missing and 0 have another shape .*{name}.*random weights",
        "shape": "have another shape than the configuration says",
        "layers": "weights are missing .*layers.2",
        "nan": f"the weight {name} is not finite",
        "words": "knows none of the words a, man, rides, a, horse",
        "processor": "no image or video processor",
    }[change]
    if change == "missing":
        del weights[name]
    elif change == "shape":
        weights[name] = weights[name][:5].contiguous()
    elif change == "nan":
        weights[name][0, 0] = float("nan")
    elif change == "layers":
        config = json.loads((folder / "config.json").read_text())
        config["vision_config"]["num_hidden_layers"] = 3
        (folder / "config.json").write_text(json.dumps(config))
    elif change == "processor":
        (folder / "preprocessor_config.json").unlink()
    else:
        vocabulary = {name: place for name, place in tiny_vocabulary.items() if name.startswith("[")}
        transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"(?s){expected}"):
        load_encoder(str(folder))


def test_what_is_no_dual_encoder_is_refused_in_a_sentence(tmp_path: Path, tiny_vocabulary: dict[str, int]) -> None:
    bert = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=60, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
    )
    bert.save_pretrained(tmp_path / "bert")
    with pytest.raises(
        ValueError, match="BertModel is no dual encoder: it does not put sentences and frames in one space"
    ):
        load_encoder(str(tmp_path / "bert"))
    with pytest.raises(ValueError, match=r"no encoder: it has no method encode_clips"):
        as_encoder(type("Half", (), {"encode_sentences": lambda self, texts: None})())
    with pytest.raises(ValueError, match="the checkpoint .*absent cannot be used"):
        load_encoder(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="the encoder no.such:Thing cannot be imported"):
        load_encoder("no.such:Thing")
    with pytest.raises(ValueError, match="has no text and video projections"):
        as_encoder(tiny_model(LFVilaForVideoClassification, tiny_config(num_labels=3)), make_processor(tiny_vocabulary))
    folder = tmp_path / "remote"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "x", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}})
    )
    with pytest.raises(ValueError, match="needs code of its own: read it, and pass --trust-remote-code"):
        load_encoder(str(folder))
    with pytest.raises(ValueError, match="reranking needs an LF-VILA checkpoint"):
        load(str(save_family("clip", tmp_path / "clip", tiny_vocabulary)), False, with_fusion=True)


def test_features_that_are_not_finite_are_refused() -> None:
    class Broken(OwnEncoder):
        def encode_clips(self, clips: Any) -> Any:
            return np.full((len(clips), 4), np.nan)

    with pytest.raises(ValueError, match="gives features that are not finite or zero"):
        as_encoder(Broken())
