"""Checkpoints of every encoder family with small random weights.

They are saved as the Hub has them: model, tokenizer, processor. The image families get a 32 x 32 picture and 4
layers at most; a BERT word-piece tokenizer serves all of them, because which words there are does not matter here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
LAYERS = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT_TEXT = {**LAYERS, "max_position_embeddings": 12, "pad_token_id": 0}
TEXT = {**BERT_TEXT, "bos_token_id": 2, "eos_token_id": 3}
VISION = {**LAYERS, "image_size": 32, "patch_size": 8}
SQUARE = {"height": 32, "width": 32}
STEPS = {"do_resize": True, "do_center_crop": True, "do_normalize": True, "do_rescale": True}
CLIP_PICTURES = {
    **{"image_processor_type": "CLIPImageProcessor", **STEPS, "resample": 3, "rescale_factor": 1 / 255},
    **{"size": {"shortest_edge": 32}, "crop_size": SQUARE, "image_mean": MEAN, "image_std": STD},
}
UNCROPPED = {**CLIP_PICTURES, "size": SQUARE, "do_center_crop": False}


def _clip(words: int) -> Any:
    config = transformers.CLIPConfig(text_config={**TEXT, "vocab_size": words}, vision_config=VISION, projection_dim=24)
    return transformers.CLIPModel(config), CLIP_PICTURES


def _siglip(words: int) -> Any:
    text = {**TEXT, "vocab_size": words, "projection_size": 32}
    pictures = {**UNCROPPED, "image_processor_type": "SiglipImageProcessor"}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION)), pictures


def _siglip2(words: int) -> Any:
    text = {**TEXT, "vocab_size": words, "projection_size": 32}
    vision = {**LAYERS, "patch_size": 8, "num_patches": 16}
    pictures = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8, "max_num_patches": 16}
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision)), pictures


def _align(words: int) -> Any:
    sizes = {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 24, "num_hidden_layers": 16}
    text, vision = {**BERT_TEXT, "vocab_size": words}, {"image_size": 32, **sizes}
    config = transformers.AlignConfig(text_config=text, vision_config=vision, projection_dim=80)
    scale = {"rescale_offset": True, "rescale_factor": 1 / 127.5, "include_top": False}
    pictures = {**CLIP_PICTURES, "image_processor_type": "EfficientNetImageProcessor", **scale}
    return transformers.AlignModel(config), {**pictures, "size": {"height": 36, "width": 36}}


def _chinese_clip(words: int) -> Any:
    text = {**BERT_TEXT, "vocab_size": words}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return transformers.ChineseCLIPModel(config), {**UNCROPPED, "image_processor_type": "ChineseCLIPImageProcessor"}


def _xclip(words: int) -> Any:
    mit = {"hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4}
    vision = {**VISION, "num_frames": 4, **{f"mit_{name}": value for name, value in mit.items()}}
    text = {**TEXT, "vocab_size": words}
    sizes = {"projection_dim": 24, "prompt_num_attention_heads": 4}
    return transformers.XCLIPModel(
        transformers.XCLIPConfig(text_config=text, vision_config=vision, **sizes)
    ), CLIP_PICTURES


def _videoprism(words: int) -> Any:
    layers = {"num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1}
    vision = {**LAYERS, **layers, "image_size": 32, "num_frames": 4, "tubelet_size": [1, 16, 16]}
    del vision["num_hidden_layers"]
    config = transformers.VideoPrismConfig(text_config={**TEXT, "vocab_size": words}, vision_config=vision)
    pictures = {"video_processor_type": "VideoPrismVideoProcessor", "size": SQUARE, "do_normalize": False}
    return transformers.VideoPrismClipModel(config), {**pictures, "resample": 3}


def _pe_video(words: int) -> Any:
    text = {**TEXT, "vocab_size": words, "cls_token_id": 2, "sep_token_id": 3}
    video = {**LAYERS, "num_hidden_layers": 1, "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 64}
    config = transformers.PeVideoConfig(text_config=text, video_config=video)
    # Its own pictures' model needs timm; this one takes and gives the same.
    config.video_config.vision_config = transformers.ViTConfig(**VISION, num_labels=24)
    pictures = {"video_processor_type": "PeVideoVideoProcessor", "size": SQUARE, "image_mean": MEAN}
    return transformers.PeVideoModel(config), {**pictures, "image_std": STD, "num_frames": 4}


MAKERS = (_clip, _siglip, _siglip2, _align, _chinese_clip, _xclip, _videoprism, _pe_video)
FAMILIES = {make.__name__[1:]: make for make in MAKERS}


def make_family(name: str, vocabulary: dict[str, int], seed: int = 0) -> tuple[Any, Any, dict[str, Any]]:
    """Model, tokenizer and picture settings of a family."""
    torch.manual_seed(seed)
    if name in ("pe_video", "videoprism") and not hasattr(
        transformers, {"pe_video": "PeVideoModel"}.get(name, "VideoPrismClipModel")
    ):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    model, pictures = FAMILIES[name](len(vocabulary))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # default initialisation makes every sentence and picture alike
                parameter.normal_(0, 0.25)
    return model, transformers.BertTokenizer(vocab=dict(vocabulary), model_max_length=12), pictures


def save_family(name: str, folder: Path, vocabulary: dict[str, int], seed: int = 0) -> Path:
    """Save the checkpoint of a family."""
    model, tokenizer, pictures = make_family(name, vocabulary, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = "video_preprocessor_config.json" if "video_processor_type" in pictures else "preprocessor_config.json"
    (folder / file).write_text(json.dumps(pictures))
    return folder


def save_sentence_transformer(folder: Path, vocabulary: dict[str, int]) -> Path:
    """Save a CLIP model as sentence-transformers does."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules.transformer import Transformer

    save_family("clip", folder / "clip", vocabulary)
    SentenceTransformer(modules=[Transformer(str(folder / "clip"))]).save(str(folder / "model"))
    return folder / "model"
