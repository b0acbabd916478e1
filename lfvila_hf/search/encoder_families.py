# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The families of story encoders: LF-VILA, image-text, video-text and sentence-transformers models.

| family | found by | a clip is |
|---|---|---|
| LF-VILA | an `LFVilaModel` in it, an `ExportedLFVila` | one of K clips of a segment; also segment, paragraph |
| video-text | `get_video_features`, or the two heads of PE-Video | the model's vector of its number of frames |
| image-text | `get_image_features` and `get_text_features` | the normalised mean of normalised frame vectors |
| sentence-transformers | `modules.json` | the same, by `encode` |

Frames are resized and normalised in torch by the settings of the checkpoint's own processor, so that no torchvision is
needed; the patches of SigLIP 2 with variable resolution are made by its own processor.

Letters: M sentences, N clips or segments, F frames of a clip, T frames of a segment, K clips of a segment, D width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn import functional

from lfvila_hf.export.exported_model import ExportedLFVila
from lfvila_hf.export.manifest import is_exported
from lfvila_hf.inference import encode_paragraphs
from lfvila_hf.modeling_lfvila import LFVilaModel
from lfvila_hf.search.encoders import PROBES, StoryEncoder, fingerprint_of, normalized, shrink
from lfvila_hf.video_processing_lfvila import VideoGeometry, VideoSettings, normalize_pixels

FIXED_LENGTH_TEXT = ("siglip", "siglip2", "videoprism")
"""Model types that were trained on sentences padded to the full length and give other vectors for shorter ones."""
UNMASKED_TEXT = ("siglip", "siglip2")
"""Model types whose text tower attends to padding as it did in training."""
PATCHES = ("siglip2",)
"""Model types that read patches of pictures of any shape."""


# -- LF-VILA ---------------------------------------------------------------------------------------------------------


def is_lfvila(model: Any) -> bool:
    """Whether a model is an exported one, or is or holds an `LFVilaModel`."""
    return isinstance(model, LFVilaModel | ExportedLFVila) or isinstance(getattr(model, "model", None), LFVilaModel)


class LFVilaEncoder(StoryEncoder):
    """LF-VILA: a segment of T frames becomes a segment vector and K clip vectors.

    Args:
        model: An `LFVilaModel`, an `ExportedLFVila`, or a model that holds the former (then hits can be reranked).
        processor: Its `LFVilaProcessor`.
        **options: Settings of the video processor, such as `isolated=True`.

    Raises:
        ValueError: The model has no projections, or the processor is missing.
    """

    def __init__(self, model: Any, processor: Any, **options: Any) -> None:
        exported = isinstance(model, ExportedLFVila)
        towers = model if exported or isinstance(model, LFVilaModel) else model.model
        if not exported and (towers.video_projection is None or towers.text_projection is None):
            raise ValueError(f"{type(model).__name__} has no text and video projections, which searching needs")
        if processor is None:
            raise ValueError(f"{type(model).__name__} needs its LFVilaProcessor")
        self.whole, self.model, self.processor = model, towers.eval(), processor
        self.name = type(towers).__name__
        self.width = int(towers.config.hidden_size)
        video = processor.video_processor
        known = video.valid_kwargs.__annotations__
        self.settings = VideoSettings({name: getattr(video, name, None) for name in known} | options)
        self.num_frames = int(video.num_frames)
        self.clip_seconds = 0.0
        self.has_clips = bool(towers.config.temporal_alignment)
        vocabulary = sorted(processor.tokenizer.get_vocab().items())
        check_vocabulary(processor.tokenizer, self.name)
        self.fingerprint = fingerprint_of(
            towers,
            [towers.config.to_dict(), video.to_dict(), processor.max_sentences, processor.max_sentence_length],
            vocabulary,
        )
        self.dtype = str(towers.dtype).removeprefix("torch.")
        self.text_limit = processor.max_sentence_length

    def prepare(self, picture: torch.Tensor) -> torch.Tensor:
        """See `StoryEncoder`: float32 `(3, H, W)` in 0 to 255."""
        return VideoGeometry(self.settings, None)(picture)

    @torch.inference_mode()
    def encode_segments(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `StoryEncoder`."""
        pixels = normalize_pixels(frames, self.settings).to(self.model.device)  # (N, T, 3, H, W)
        output = self.model.get_video_features(pixels, return_dict=True)
        clips = output.clip_embeds
        return normalized(output.video_embeds, self.name), None if clips is None else normalized(clips, self.name)

    def encode_sentences(self, sentences: Sequence[str]) -> torch.Tensor:
        """See `StoryEncoder`."""
        vectors = self.encode_story(sentences)[0]
        if vectors is None:
            raise ValueError(f"{self.name} has no sentence vectors (temporal_alignment=False): use the score 'global'")
        return vectors

    def encode_stories(self, stories: Sequence[Sequence[str]]) -> list[tuple[torch.Tensor | None, torch.Tensor | None]]:
        """Embed stories, in several paragraphs of equal length if one has more sentences than the model reads."""
        paragraphs, counts = [], []
        for sentences in stories:
            groups = -(-len(sentences) // self.processor.max_sentences)
            bounds = [round(number * len(sentences) / groups) for number in range(groups + 1)]
            paragraphs += [list(sentences[bounds[number] : bounds[number + 1]]) for number in range(groups)]
            counts.append(groups)
        read = encode_paragraphs(self.model, self.processor, paragraphs)
        found: list[tuple[torch.Tensor | None, torch.Tensor | None]] = []
        for last, count in zip(np.cumsum(counts).tolist(), counts, strict=True):
            own = slice(last - count, last)
            rows = None
            if read.sentence_embeds is not None:
                rows = normalized(read.sentence_embeds[own][read.sentence_mask[own].bool()], self.name)  # (M, D)
            found.append((rows, normalized(read.text_embeds[own].mean(0), self.name)))
        return found

    def notes(self, sentences: Sequence[str]) -> list[str]:
        """See `StoryEncoder`."""
        most = self.processor.max_sentences
        groups = -(-len(sentences) // most)
        text = f"the model reads {most} sentences at a time, this story of {len(sentences)} was read in {groups} "
        text += "paragraphs"
        return [*([text] if groups > 1 else []), *super().notes(sentences)]

    def count_tokens(self, sentences: Sequence[str]) -> list[int]:
        """See `StoryEncoder`."""
        return [len(ids) for ids in self.processor.tokenizer(list(sentences))["input_ids"]]

    def to(self, device: Any, dtype: str | None = None) -> StoryEncoder:
        """See `StoryEncoder`."""
        self.whole.to(device=device, dtype=getattr(torch, dtype) if dtype else None)
        self.dtype = str(self.model.dtype).removeprefix("torch.")
        return self


# -- dual encoders of transformers -----------------------------------------------------------------------------------


class FrameSettings:
    """Resizing, cropping and normalising of frames, as an image or video processor stores them.

    Args:
        values: Settings by name: `size`, `crop_size`, `do_resize`, `resample`, `image_mean`, ...
        image_size: Height and width for a processor that stores no size.
    """

    def __init__(self, values: Mapping[str, Any], image_size: int) -> None:
        self.values = {name: value for name, value in values.items() if value is not None}
        self.size = self._pair(self.values.get("size"), image_size)
        self.crop = self._pair(self.values.get("crop_size"), image_size)

    @staticmethod
    def _pair(size: Any, default: int) -> tuple[int, int] | int:
        if isinstance(size, Mapping):
            return int(size["shortest_edge"]) if "shortest_edge" in size else (int(size["height"]), int(size["width"]))
        return (int(size or default), int(size or default))

    def resize(self, picture: torch.Tensor) -> torch.Tensor:
        """One picture `(3, h, w)` uint8 to `(3, H, W)` uint8."""
        height, width = picture.shape[1:]
        if self.values.get("do_resize", True):
            size = self.size
            if isinstance(size, int):
                short, long = size, int(size * max(height, width) / min(height, width))
                size = (short, long) if height <= width else (long, short)
            mode = "bilinear" if self.values.get("resample", 2) == 2 else "bicubic"
            picture = functional.interpolate(picture[None], size=size, mode=mode, antialias=True)[0]
        if self.values.get("do_center_crop", False):
            crop = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
            spare = [max(wanted - have, 0) for wanted, have in zip(crop, picture.shape[1:], strict=True)]
            if any(spare):
                top, left = spare[0] // 2, spare[1] // 2
                picture = functional.pad(picture, (left, spare[1] - left, top, spare[0] - top))
            top, left = ((have - wanted) // 2 for wanted, have in zip(crop, picture.shape[1:], strict=True))
            picture = picture[:, top : top + crop[0], left : left + crop[1]]
        return picture

    def normalize(self, frames: torch.Tensor) -> torch.Tensor:
        """`(..., 3, H, W)` uint8 to float32."""
        pixels = frames.float()
        if self.values.get("do_rescale", True):
            pixels = pixels * self.values.get("rescale_factor", 1 / 255)
        if self.values.get("rescale_offset", False):
            pixels = pixels - 1
        if self.values.get("do_normalize", True):
            mean, std = (
                torch.tensor(self.values.get(name, [0.5] * 3)).view(3, 1, 1) for name in ("image_mean", "image_std")
            )
            pixels = (pixels - mean) / std
            if self.values.get("include_top", False):
                pixels = pixels / std
        return pixels


class ImageTextEncoder(StoryEncoder):
    """CLIP, SigLIP, ALIGN, ... : any model with `get_image_features` and `get_text_features`.

    Args:
        model: The model.
        processor: `(tokenizer, settings)` from `load`, or a processor with `tokenizer` and `image_processor`.
    """

    video = False

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.name = model.eval(), type(model).__name__
        self.tokenizer, processing = _parts_of(processor, self.name)
        config = model.config
        text = getattr(config, "text_config", config)
        vision = getattr(config, "vision_config", None) or getattr(config, "video_config", None)
        vision = getattr(vision, "vision_config", vision)
        size = getattr(vision, "image_size", None) or 224
        size = max(size) if isinstance(size, list | tuple) else size
        values = processing if isinstance(processing, Mapping) else _attributes(processing)
        self.patches = processing if config.model_type in PATCHES else None
        self.frames = FrameSettings(values, size)
        if self.video:
            self.frames_per_clip = int(getattr(vision, "num_frames", None) or values.get("num_frames") or 8)
        check_vocabulary(self.tokenizer, self.name)
        limits = [getattr(text, "max_position_embeddings", None), getattr(self.tokenizer, "model_max_length", None)]
        self.text_limit = min([int(limit) for limit in limits if limit and limit < 100_000], default=0)
        self.padding = "max_length" if config.model_type in FIXED_LENGTH_TEXT else True
        self.dtype = str(model.dtype).removeprefix("torch.")
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        self.fingerprint = fingerprint_of(model, [config.to_dict(), values], [vocabulary, self.text_limit])
        self.width = self.encode_sentences(PROBES[:1]).shape[1]
        blank = self.prepare(torch.zeros(3, 2 * size, 2 * size, dtype=torch.uint8)).expand(
            1, self.frames_per_clip, -1, -1, -1
        )
        found = self.encode_clips(blank, [[0.0] * self.frames_per_clip]).shape[1]
        if found != self.width:
            raise ValueError(
                f"{self.name} gives sentences of width {self.width} and clips of {found}: they cannot be compared"
            )

    def prepare(self, picture: torch.Tensor) -> torch.Tensor:
        """See `StoryEncoder`."""
        if self.patches is not None:  # its processor scales by itself; big pictures only cost memory
            return shrink(picture, 512 / max(picture.shape[1:]))
        return self.frames.resize(picture)

    @torch.inference_mode()
    def encode_clips(self, frames: torch.Tensor, seconds: Sequence[Sequence[float]]) -> torch.Tensor:
        """See `StoryEncoder`."""
        count, per_clip = frames.shape[:2]
        if self.patches is not None:
            inputs = dict(self.patches(images=list(frames.flatten(0, 1)), return_tensors="pt"))
            inputs = {
                name: self._placed(value) for name, value in inputs.items() if name != "num_soft_tokens_per_image"
            }
        else:
            inputs = {"pixel_values": self._placed(self.frames.normalize(frames.flatten(0, 1)))}
        vectors = normalized(_tensor(self.model.get_image_features(**inputs)), self.name)  # (N * F, D)
        return normalized(vectors.view(count, per_clip, -1).mean(1), self.name)

    @torch.inference_mode()
    def encode_sentences(self, sentences: Sequence[str]) -> torch.Tensor:
        """See `StoryEncoder`."""
        inputs = self.tokenizer(
            list(sentences),
            padding=self.padding,
            truncation=True,
            max_length=self.text_limit or None,
            return_tensors="pt",
        ).to(self.model.device)
        masked = self.model.config.model_type not in UNMASKED_TEXT
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")[: 1 + masked] if name in inputs}
        return normalized(_tensor(self.text_features(**inputs)), self.name)

    @property
    def text_features(self) -> Any:
        """The function from tokens to text features."""
        return self.model.get_text_features

    def count_tokens(self, sentences: Sequence[str]) -> list[int]:
        """See `StoryEncoder`."""
        return [len(ids) for ids in self.tokenizer(list(sentences), verbose=False)["input_ids"]]

    def to(self, device: Any, dtype: str | None = None) -> StoryEncoder:
        """See `StoryEncoder`."""
        self.model.to(device=device, dtype=getattr(torch, dtype) if dtype else None)
        self.dtype = str(self.model.dtype).removeprefix("torch.")
        return self

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.model.device, self.model.dtype if tensor.is_floating_point() else tensor.dtype)


class VideoTextEncoder(ImageTextEncoder):
    """X-CLIP, VideoPrism, ... : any model with `get_video_features` and `get_text_features`."""

    video = True

    @torch.inference_mode()
    def encode_clips(self, frames: torch.Tensor, seconds: Sequence[Sequence[float]]) -> torch.Tensor:
        """See `StoryEncoder`; the first argument of the model's function is the pixels `(N, F, 3, H, W)`."""
        pixels = self._placed(self.frames.normalize(frames))
        return normalized(_tensor(self.video_features(pixels)), self.name)

    @property
    def video_features(self) -> Any:
        """The function from pixels to video features."""
        return self.model.get_video_features


class PEVideoEncoder(VideoTextEncoder):
    """PE-Video, whose feature functions are not reachable in transformers 5.23: its towers and heads are called."""

    def text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """See `ImageTextEncoder`."""
        output = self.model.text_model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        return self.model.text_video_head(output.hidden_states[-1][:, 0])

    def video_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `VideoTextEncoder`."""
        return self.model.video_head(self.model.video_encoder(pixel_values_videos=pixels).pooler_output)


class SentenceTransformersEncoder(StoryEncoder):
    """A multimodal model of sentence-transformers.

    Args:
        model: A `SentenceTransformer` that takes texts and images.
        processor: Not used.
    """

    frame_size = 256

    def __init__(self, model: Any, processor: Any = None) -> None:
        self.model, self.name = model.eval(), "SentenceTransformer"
        modalities = list(model.modalities)
        if "text" not in modalities or "image" not in modalities:
            raise ValueError(
                f"this SentenceTransformer reads {', '.join(map(str, modalities))}: text and image are needed"
            )
        tokenizer = getattr(model.tokenizer, "tokenizer", model.tokenizer)
        self.tokenizer = tokenizer
        check_vocabulary(tokenizer, self.name)
        self.text_limit = int(model.max_seq_length or 0)
        self.dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        self.width = self.encode_sentences(PROBES[:1]).shape[1]
        self.fingerprint = fingerprint_of(
            model, [str(module) for module in model], sorted(tokenizer.get_vocab().items())
        )

    def prepare(self, picture: torch.Tensor) -> torch.Tensor:
        """See `StoryEncoder`: the shorter side is at most 256 pixels."""
        return shrink(picture, self.frame_size / min(picture.shape[1:]))

    def encode_clips(self, frames: torch.Tensor, seconds: Sequence[Sequence[float]]) -> torch.Tensor:
        """See `StoryEncoder`."""
        from PIL import Image

        pictures = [Image.fromarray(one.permute(1, 2, 0).contiguous().numpy()) for one in frames.flatten(0, 1)]
        vectors = self._encode(pictures)
        return normalized(vectors.view(*frames.shape[:2], -1).mean(1), self.name)

    def encode_sentences(self, sentences: Sequence[str]) -> torch.Tensor:
        """See `StoryEncoder`."""
        return self._encode(list(sentences))

    def count_tokens(self, sentences: Sequence[str]) -> list[int]:
        """See `StoryEncoder`."""
        return [len(ids) for ids in self.tokenizer(list(sentences), verbose=False)["input_ids"]]

    def to(self, device: Any, dtype: str | None = None) -> StoryEncoder:
        """See `StoryEncoder`."""
        self.model.to(device=device, dtype=getattr(torch, dtype) if dtype else None)
        self.dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        return self

    def _encode(self, items: list[Any]) -> torch.Tensor:
        vectors = self.model.encode(items, convert_to_tensor=True, show_progress_bar=False)
        return normalized(vectors, self.name)


# -- loading ---------------------------------------------------------------------------------------------------------


def family_of(model: Any) -> type[Any]:
    """The encoder class of a model.

    Raises:
        ValueError: The model is no dual encoder.
    """
    if hasattr(model, "encode") and hasattr(model, "modalities"):
        return SentenceTransformersEncoder
    if hasattr(model, "text_video_head") and hasattr(model, "video_head"):
        return PEVideoEncoder
    has = [name for name in ("text", "image", "video") if callable(getattr(model, f"get_{name}_features", None))]
    generates = callable(getattr(model, "generate", None)) and getattr(model, "lm_head", None) is not None
    if "text" in has and len(has) > 1 and not generates:
        return VideoTextEncoder if "video" in has else ImageTextEncoder
    raise ValueError(
        f"{type(model).__name__} is no dual encoder: it does not put sentences and frames in one space (it has no "
        "get_text_features with get_image_features or get_video_features). Use CLIP, SigLIP, X-CLIP or LF-VILA"
    )


def load(checkpoint: str, trust_remote_code: bool, with_fusion: bool) -> StoryEncoder:
    """Load an encoder; see `lfvila_hf.search.encoders.load_encoder`."""
    from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor
    from transformers.utils import cached_file

    import lfvila_hf  # noqa: F401 -- registers LF-VILA with the Auto classes

    remote = {"trust_remote_code": trust_remote_code}
    try:
        if is_exported(checkpoint):
            if with_fusion:
                raise ValueError("it is an export, which has no cross-modal encoder, which reranking needs")
            return LFVilaEncoder(ExportedLFVila(checkpoint), AutoProcessor.from_pretrained(checkpoint, **remote))
        found = cached_file(checkpoint, "modules.json", _raise_exceptions_for_missing_entries=False)
        if found is not None and not with_fusion:
            return _load_sentence_transformer(checkpoint, trust_remote_code)
        config = AutoConfig.from_pretrained(checkpoint, **remote)
        if with_fusion and config.model_type != "lfvila":
            raise ValueError(f"reranking needs an LF-VILA checkpoint, this is a model of type {config.model_type!r}")
        if with_fusion and not config.text_config.num_cross_modal_layers:
            raise ValueError("it has no cross-modal encoder, which reranking needs")
        loader = AutoModelForPreTraining if with_fusion else AutoModel
        # Shapes that differ are reported instead of raised, so that one check names them all.
        told = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = loader.from_pretrained(checkpoint, **told, **remote)
        _check_weights(report)
        if is_lfvila(model):
            return LFVilaEncoder(model, AutoProcessor.from_pretrained(checkpoint, **remote))
        return family_of(model)(model, _processing(checkpoint, config, remote))
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"the checkpoint {checkpoint} needs code of its own: read it, and pass --trust-remote-code "
                "(trust_remote_code=True) if you trust it"
            ) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        absent = "" if os.path.isdir(checkpoint) else f"there is no folder {checkpoint}, and as a name on the Hub: "
        raise ValueError(f"the checkpoint {checkpoint} cannot be used: {absent}{first}") from error


def _load_sentence_transformer(checkpoint: str, trust_remote_code: bool) -> StoryEncoder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ValueError("it is a sentence-transformers model: pip install sentence-transformers") from None
    return SentenceTransformersEncoder(
        SentenceTransformer(checkpoint, trust_remote_code=trust_remote_code, device="cpu")
    )


def _check_weights(report: Mapping[str, Any]) -> None:
    missing = sorted(report["missing_keys"])
    wrong = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report["mismatched_keys"])
    if missing or wrong:
        some = ", ".join([*missing, *wrong][:5])
        raise ValueError(
            f"{len(missing)} weights are missing and {len(wrong)} have another shape than the configuration says "
            f"({some}"
            f"{', ...' if len(missing) + len(wrong) > 5 else ''}): random weights would be searched with"
        )


def _processing(checkpoint: str, config: Any, remote: dict[str, Any]) -> tuple[Any, Any]:
    """Tokenizer and picture settings of a checkpoint, without the classes that need torchvision."""
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.video_processing_utils import BaseVideoProcessor

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, **remote)
    try:
        return tokenizer, AutoImageProcessor.from_pretrained(checkpoint, backend="pil", **remote)
    except (OSError, ValueError, ImportError, KeyError, AttributeError):
        try:
            values, _ = BaseVideoProcessor.get_video_processor_dict(checkpoint)
        except OSError:
            raise ValueError(
                f"it has no image or video processor (preprocessor_config.json) for {config.model_type}"
            ) from None
        return tokenizer, values


def _parts_of(processor: Any, name: str) -> tuple[Any, Any]:
    if isinstance(processor, tuple):
        return processor
    pictures = getattr(processor, "image_processor", None) or getattr(processor, "video_processor", None)
    if getattr(processor, "tokenizer", None) is None or pictures is None:
        raise ValueError(f"{name} needs its processor, with a tokenizer and an image or video processor")
    return processor.tokenizer, pictures


def _attributes(processor: Any) -> dict[str, Any]:
    """The settings of an image processor, defaults of its class included."""
    names = (
        "size crop_size do_resize do_center_crop do_rescale do_normalize resample rescale_factor rescale_offset "
        "include_top image_mean image_std num_frames"
    ).split()
    values = {name: getattr(processor, name, None) for name in names}
    sizes: dict[str, dict[str, Any]] = {
        name: dict(values[name] or {}) for name in ("size", "crop_size") if values[name] is not None
    }
    return json.loads(
        json.dumps({**values, **{n: {k: v for k, v in s.items() if v} for n, s in sizes.items()}}, default=int)
    )


def _tensor(features: Any) -> torch.Tensor:
    """Features of a model that returns them, or an output that holds them."""
    if not torch.is_tensor(features):
        features = features[0] if isinstance(features, tuple) else features.pooler_output
    return features[:, 0] if features.ndim == 3 else features  # VideoPrism keeps an axis of one


def check_vocabulary(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer to which every word is unknown.

    Raises:
        ValueError: It is one.
    """
    unknown = tokenizer.unk_token_id
    special = set(tokenizer.all_special_ids)
    ids = [one for probe in PROBES for one in tokenizer(probe)["input_ids"] if one not in special or one == unknown]
    if not ids or (unknown is not None and all(one == unknown for one in ids)):
        raise ValueError(
            f"the vocabulary of {name} knows none of the words {', '.join(PROBES[0].split())}: the checkpoint's "
            f"tokenizer files are "
            "missing or of another model"
        )


__all__ = ["FrameSettings", "LFVilaEncoder", "family_of", "is_lfvila", "load"]
