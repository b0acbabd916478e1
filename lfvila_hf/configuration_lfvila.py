# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Configurations of the video tower, of the text tower with the cross-modal encoder, and of the joint model.

Defaults are the released size (microsoft/XPretrain, LF-VILA, `src/configs`): a Swin-B-shaped video tower of 89.2 M
parameters with hierarchical temporal windows, and BERT-large in three slices of 8, 4 and 12 layers. If a default
differs from released behaviour, another value of the field restores it (docs/parity.md).

A configuration file is untrusted. It may name remote code in `auto_map` and `custom_pipelines`, but only LF-VILA's own
files and classes. The caller of `from_pretrained` decides whether to trust code, never the file.

Letters: T frames, K clips, M sentences, L tokens, H and W pixels, P tokens per frame, C channels, D shared width.
"""

import difflib
import functools
import json
import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import GenerationConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Bounds of fields: a file of a few bytes must not make a process allocate without end, and NaN is in no range.
MAX_SIZE = 1_000_000
MAX_LAYERS = 1_000
MAX_WINDOW_CELLS = 8_192
MAX_NUMBER = 1e6
MIN_TEMPERATURE = 1e-6

# Arguments of a model's `from_pretrained` that change its size of video after loading.
VIDEO_SIZES = ("num_frames", "temporal_windows", "image_size", "spatial_window")

# Classes of flat files that Auto classes load without the package, by model_type.
AUTO_MAPS = {
    "lfvila": {
        "AutoConfig": "configuration_lfvila.LFVilaConfig",
        "AutoModel": "modeling_lfvila.LFVilaModel",
        "AutoModelForPreTraining": "modeling_lfvila.LFVilaForPreTraining",
        "AutoModelForVisualQuestionAnswering": "modeling_lfvila.LFVilaForQuestionAnswering",
        "AutoModelForMultipleChoice": "modeling_lfvila.LFVilaForMultipleChoice",
        "AutoModelForVideoClassification": "modeling_lfvila.LFVilaForVideoClassification",
    },
    "lfvila_video_model": {
        "AutoConfig": "configuration_lfvila.LFVilaVideoConfig",
        "AutoModel": "modeling_video_lfvila.LFVilaVideoModel",
    },
    "lfvila_text_model": {
        "AutoConfig": "configuration_lfvila.LFVilaTextConfig",
        "AutoModel": "modeling_text_lfvila.LFVilaTextModel",
    },
}
# A file that travels with a checkpoint and a class in it; transformers may prepend the repository.
OWN_CODE = re.compile(r"(?:[\w.-]+(?:/[\w.-]+)?--)?\w+_lfvila\.LFVila\w+")
TRUST_FIELDS = ("trust_remote_code", "remote_code", "code_revision", "custom_generate", "import_allowlist")
# Fields that transformers adds to the configuration of any model, besides those of its base class and of generation.
TRANSFORMERS_FIELDS = frozenset(
    (
        *("attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "model_type"),
        *("name_or_path", "num_labels", "per_layer_config", "quantization_config", "task_specific_params"),
        *("tie_word_embeddings", "tokenizer_class", "torch_dtype", "transformers_version", "vocab_size"),
    )
)


def refuse_code(config: str, fields: Mapping[str, Any]) -> None:
    """Refuse fields through which a configuration would select code to run.

    Args:
        config: Name of the configuration's class, for the message.
        fields: Fields of the configuration or of its file.

    Raises:
        ValueError: A field grants trust, or names code that is not one of our files.
    """
    for name in TRUST_FIELDS:
        if name in fields:
            raise ValueError(
                f"{config} has a field {name!r} = {fields[name]!r}, but a configuration does not decide whether code "
                f"is trusted. Remove the field, or pass it to from_pretrained."
            )
    named = []
    for field in ("auto_map", "custom_pipelines"):
        value = fields.get(field) or {}
        if not isinstance(value, Mapping):
            raise ValueError(f"{field} of {config} must be a mapping, got {value!r:.80}")
        named += list(value.items())
    for name, reference in named:
        reference = reference.get("impl") if isinstance(reference, Mapping) else reference
        parts = reference if isinstance(reference, list | tuple) else [reference]
        if not all(isinstance(part, str) and OWN_CODE.fullmatch(part) for part in parts):
            raise ValueError(
                f"{config} names foreign code, {name} = {reference!r:.80}: only classes of LF-VILA's files are "
                f"expected. Remove the entry."
            )
    for name in ("text_config", "video_config"):
        if isinstance(fields.get(name), Mapping):
            refuse_code(f"{name} of {config}", fields[name])


def refuse_kernels(config: str, fields: Mapping[str, Any]) -> None:
    """Refuse a configuration file that names an attention kernel on the Hub: it would be downloaded and run.

    Args:
        config: Name of the configuration's class, for the message.
        fields: Fields of the configuration's file.

    Raises:
        ValueError: The file names such a kernel; only the caller of `from_pretrained` may.
    """
    kernel = fields.get("attn_implementation", fields.get("_attn_implementation"))
    values = kernel.values() if isinstance(kernel, Mapping) else [kernel]
    if any(isinstance(value, str) and "/" in value for value in values):
        raise ValueError(
            f"{config} asks for a kernel from the Hub, attn_implementation = {kernel!r}. Remove the field, or pass it "
            f"to from_pretrained."
        )
    for name in ("text_config", "video_config"):
        if isinstance(fields.get(name), Mapping):
            refuse_kernels(f"{name} of {config}", fields[name])


@functools.cache
def fields_of_transformers() -> frozenset[str]:
    """Return the names that transformers reads or writes in the configuration of any model."""
    return frozenset(GenerationConfig().to_dict()) | TRANSFORMERS_FIELDS


def check_name(config: type[PreTrainedConfig], name: str, value: Any) -> None:
    """Check an attribute that is set on a configuration; one of an unknown name is a warning.

    Raises:
        ValueError: It is a misspelt field, follows from the fields, or is unknown and no value for a JSON file.
    """
    derived = getattr(config, name, None)
    if isinstance(derived, property) and derived.fset is None:
        raise ValueError(
            f"{name} follows from the other fields of {config.__name__} and cannot be set: {derived.__doc__}"
        )
    fields = config.__dataclass_fields__
    if name.startswith("_") or name in fields or name in fields_of_transformers():
        return
    properties = [key for key in dir(config) if isinstance(getattr(config, key, None), property)]
    if meant := difflib.get_close_matches(name, [*fields, *properties], n=1, cutoff=0.85):
        raise ValueError(f"{config.__name__} has no field {name!r}; did you mean {meant[0]!r}?")
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{config.__name__} has no field {name!r}, and {value!r:.80} cannot be saved as JSON. Set a text, a "
            f"number, or lists and dictionaries of them."
        ) from None
    logger.warning(f"{config.__name__} has no field {name!r}; kept, but nothing reads it")


def check_extra_fields(config: PreTrainedConfig, fields: Mapping[str, Any]) -> None:
    """Check keywords that are no field of `config`, before they are set as attributes.

    Args:
        config: The configuration under construction.
        fields: Keywords beyond its fields.

    Raises:
        ValueError: The fields belong to another model, select code (see `refuse_code`), or one is misspelt.
    """
    own = type(config)
    refuse_code(own.__name__, fields)
    model_type = fields.get("model_type", own.model_type)
    if model_type != own.model_type:
        raise ValueError(f'{own.__name__} has model_type "{own.model_type}", got the fields of a "{model_type}"')
    for name, value in fields.items():
        check_name(own, name, value)


def _bounds(low: float, high: float, *names: str) -> dict[str, tuple[float, float]]:
    """Return a table with the bounds of each of the fields `names`."""
    return dict.fromkeys(names, (low, high))


class LFVilaBaseConfig(PreTrainedConfig):
    """Base configuration that leaves sizes of video to the model when an Auto class loads a checkpoint.

    Auto classes build the configuration first and pass unused arguments to the model. Weights have to be loaded at
    their stored size, which `from_pretrained` of the model changes afterwards.
    """

    # Lowest and highest value of each numeric field.
    bounds: ClassVar[dict[str, tuple[float, float]]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a misspelt name or a value out of range is an error now, not when a model is saved."""
        if name not in vars(self):
            check_name(type(self), name, value)
        low, high = self.bounds.get(name, (0, None))
        if high is not None and isinstance(value, int | float) and not low <= value <= high:  # also NaN
            at_most = f" and at most {high:g}" if high < MAX_LAYERS or value > high else ""
            raise ValueError(f"{name} must be at least {low:g}{at_most}, got {value}")
        if name in ("auto_map", "custom_pipelines", *TRUST_FIELDS):
            refuse_code(type(self).__name__, {name: value})
        super().__setattr__(name, value)

    def check_fields(self) -> None:
        """Raise `ValueError` if fields disagree; also called when a model is made, as fields may be set before."""

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save as in transformers, with `auto_map` for all Auto classes if code is saved too.

        Args:
            save_directory: Folder to write to.
            push_to_hub: Whether to upload the folder. Defaults to False.
            **kwargs: Passed to transformers.
        """
        if self._auto_class is not None:
            self.auto_map = dict(AUTO_MAPS[self.model_type])
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration as in transformers; with `return_unused_kwargs`, sizes of video count as unused.

        Args:
            config_dict: Fields by name.
            **kwargs: Passed to transformers.

        Raises:
            ValueError: The fields belong to another model or would select code to run.
        """
        refuse_code(cls.__name__, config_dict)
        refuse_kernels(cls.__name__, config_dict)
        if not kwargs.get("return_unused_kwargs"):
            return super().from_dict(config_dict, **kwargs)
        sizes = {name: kwargs.pop(name) for name in VIDEO_SIZES if name in kwargs}
        config, unused = super().from_dict(config_dict, **kwargs)
        return config, unused | sizes


@strict
class LFVilaVideoConfig(LFVilaBaseConfig):
    r"""Configuration of the video tower (HTWA; paper section 3.2, released `VideoEncoder`).

    Lists with one entry per level must have the same length, otherwise a `ValueError` names them.

    Args:
        image_size: Height and width of a frame in pixels, `[H, W]`. Defaults to `[192, 320]`. It sets P, the number of
            positions per frame in the cross-modal encoder; the tower itself takes any frame size.
        num_frames: T, frames sampled from a video. Defaults to 32.
        num_clips: K, clips of equal length in a video. Defaults to 4.
        num_channels: Colour channels of a pixel. Defaults to 3.
        patch_size: Rows and columns of one patch in pixels (one number, or `[rows, columns]`); a patch is one frame
            long. Defaults to 8.
        embed_dim: Channels of level 0; doubled by every patch merging. Defaults to 128.
        depths: Blocks of every level. Defaults to `[2, 2, 14, 2, 2, 2]`.
        num_heads: Attention heads of every level. Defaults to `[4, 8, 16, 16, 16, 32]`.
        temporal_windows: Frames in an attention window, per level. Defaults to `[2, 4, 8, 16, 16, 32]`. Its growth from
            level to level is the idea of the paper.
        spatial_window: Rows and columns of patches in an attention window, for all levels. Defaults to `[3, 5]`.
        merge_after: Levels followed by a 2 x 2 patch merging. Defaults to `[0, 1, 4]`.
        clip_level: Level whose output becomes the clip features of MTC: the last one whose window fits in a clip.
            Defaults to 2.
        clip_after_merging: Whether to read that output after the level's patch merging, if it has one. Defaults to
            False. Only released models whose `local_window` ends at such a level need True.
        pool_size: Kernel of the stride-1 max-pooling over the last grid, whose output are the P tokens of a frame.
            Defaults to `[2, 3]`.
        mlp_ratio: Hidden width of a block's MLP over its channels. Defaults to 4.
        qkv_bias: Whether the query, key and value projections have a bias. Defaults to True.
        hidden_act: Activation of the MLPs. Defaults to `"gelu"`.
        hidden_dropout_prob: Dropout after the patch embedding, the attention projection and in the MLPs. Defaults to 0.
        attention_probs_dropout_prob: Dropout on attention weights. Defaults to 0.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0 at the first. Defaults to 0.2.
        layer_norm_eps: Epsilon of every LayerNorm of the tower. Defaults to 1e-5.
        initializer_range: Standard deviation of new weights. Defaults to 0.02.
        temporal_shift: Whether odd blocks of the levels above `clip_level` also shift their windows by half a window in
            time. Defaults to False, as released. With True, windows reach across the borders of their neighbours, and
            information travels along a video that is longer than one window.
        video_stem: `"patch"`, one strided convolution per patch (released), or `"conv"`, 3 x 3 x 3 convolutions that
            halve the frame until a patch is one cell and stay within a level-0 window in time. Defaults to `"patch"`.
    """

    model_type = "lfvila_video_model"
    base_config_key = "video_config"
    bounds: ClassVar[dict[str, tuple[float, float]]] = {
        **_bounds(1, MAX_SIZE, "num_frames", "num_clips", "num_channels", "embed_dim"),
        **_bounds(0, 1, "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"),
        **_bounds(0, MAX_NUMBER, "mlp_ratio", "layer_norm_eps", "initializer_range"),
    }

    image_size: list[int] | tuple[int, ...] = (192, 320)
    num_frames: int = 32
    num_clips: int = 4
    num_channels: int = 3
    patch_size: int | list[int] | tuple[int, ...] = 8
    embed_dim: int = 128
    depths: list[int] | tuple[int, ...] = (2, 2, 14, 2, 2, 2)
    num_heads: list[int] | tuple[int, ...] = (4, 8, 16, 16, 16, 32)
    temporal_windows: list[int] | tuple[int, ...] = (2, 4, 8, 16, 16, 32)
    spatial_window: list[int] | tuple[int, ...] = (3, 5)
    merge_after: list[int] | tuple[int, ...] = (0, 1, 4)
    clip_level: int = 2
    clip_after_merging: bool = False
    pool_size: list[int] | tuple[int, ...] = (2, 3)
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    drop_path_rate: float | int = 0.2
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    temporal_shift: bool = False
    video_stem: Literal["patch", "conv"] = "patch"

    def __post_init__(self, **kwargs: Any) -> None:
        """Convert sizes to lists and check that the fields fit each other."""
        check_extra_fields(self, kwargs)
        per_level = ("depths", "num_heads", "temporal_windows", "merge_after")
        for name in (*per_level, "image_size", "spatial_window", "pool_size"):
            setattr(self, name, list(getattr(self, name)))
        if isinstance(self.patch_size, int):
            self.patch_size = [self.patch_size, self.patch_size]
        else:
            size = list(self.patch_size)
            if len(size) == 3 and size[0] != 1:
                raise ValueError(f"patch_size: a patch is one frame long, got {size}; expected [1, rows, columns]")
            self.patch_size = size[-2:]
        self.check_fields()
        self._warn_of_crossing_windows()
        super().__post_init__(**kwargs)

    def check_fields(self) -> None:
        """Raise `ValueError` if fields disagree."""
        if self.drop_path_rate == 1:
            raise ValueError("drop_path_rate must be at least 0 and below 1, got 1")
        for name in ("image_size", "patch_size", "spatial_window", "pool_size"):
            value = getattr(self, name)
            if len(value) != 2 or min(value) < 1:
                raise ValueError(f"{name} must be two positive numbers (rows, columns), got {value}")
            if max(value) > MAX_SIZE:
                raise ValueError(f"{name} must be at most {MAX_SIZE}, got {value}")
        self._check_levels()
        rows, columns = self.patch_shape
        if self.video_stem == "conv" and (rows != columns or rows & (rows - 1)):
            raise ValueError(
                f'video_stem="conv" halves the frame: patch_size must be a power of two, got {self.patch_size}'
            )

    def _warn_of_crossing_windows(self) -> None:
        """Warn if clip features would see other clips."""
        if self.num_frames % self.num_clips == 0:
            frames_per_clip = self.num_frames // self.num_clips
            crossing = [
                t for t in self.temporal_windows[: self.clip_level + 1] if frames_per_clip % min(t, self.num_frames)
            ]
            if crossing:
                logger.warning(
                    f"temporal windows {crossing} at or below clip_level = {self.clip_level} do not divide the "
                    f"{frames_per_clip} frames of a clip ({self.num_frames} frames / {self.num_clips} clips): "
                    f"clip features will see neighbouring clips"
                )

    def _check_levels(self) -> None:
        """Raise `ValueError` if what is given per level does not fit."""
        levels = len(self.depths)
        lengths = {name: len(getattr(self, name)) for name in ("depths", "num_heads", "temporal_windows")}
        if levels == 0 or len(set(lengths.values())) != 1:
            raise ValueError(f"one entry per level is expected in each of these lists, got lengths {lengths}")
        for name in ("depths", "num_heads", "temporal_windows"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if sum(self.depths) > MAX_LAYERS or levels > MAX_LAYERS:
            raise ValueError(f"depths must sum to at most {MAX_LAYERS} blocks, got {sum(self.depths)}")
        cells = max(self.temporal_windows) * self.spatial_window[0] * self.spatial_window[1]
        if cells > MAX_WINDOW_CELLS:
            raise ValueError(
                f"a window of {max(self.temporal_windows)} x {self.spatial_window} has {cells} cells, at most "
                f"{MAX_WINDOW_CELLS} are supported. Use smaller windows."
            )
        if sorted(set(self.merge_after)) != self.merge_after or any(not 0 <= i < levels for i in self.merge_after):
            raise ValueError(f"merge_after must be rising level numbers below {levels}, got {self.merge_after}")
        if not 0 <= self.clip_level < levels:
            raise ValueError(f"clip_level must be a level number below {levels}, got {self.clip_level}")
        for level, (channels, heads) in enumerate(zip(self.channels, self.num_heads, strict=True)):
            if channels % heads:
                raise ValueError(
                    f"level {level}: {channels} channels are not divisible by num_heads[{level}] = {heads}. Change "
                    f"embed_dim or num_heads."
                )

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Rows and columns of a patch in pixels."""
        rows, columns = self.patch_size  # type: ignore[misc]  # a list from __post_init__ on
        return rows, columns

    @property
    def channels(self) -> list[int]:
        """C of every level."""
        return [self.embed_dim * 2 ** sum(m < level for m in self.merge_after) for level in range(len(self.depths))]

    @property
    def clip_channels(self) -> int:
        """C of the map that the clip features are made from."""
        merged = self.clip_after_merging and self.clip_level in self.merge_after
        return self.channels[self.clip_level] * (2 if merged else 1)

    @property
    def hidden_size(self) -> int:
        """D, channels after the last level (and its merging, if it has one)."""
        return self.embed_dim * 2 ** len(self.merge_after)

    @property
    def num_hidden_layers(self) -> int:
        """Blocks of all levels together."""
        return sum(self.depths)

    def shifts_in_time(self, level: int) -> bool:
        """Return whether odd blocks of a level shift their windows in time; only levels above `clip_level` can."""
        return self.temporal_shift and level > self.clip_level

    @property
    def last_grid(self) -> tuple[int, int]:
        """Rows and columns (h, w) of the last level's grid for a frame of `image_size`."""
        rows, columns = (-(-size // patch) for size, patch in zip(self.image_size, self.patch_shape, strict=True))
        for _ in self.merge_after:
            rows, columns = -(-rows // 2), -(-columns // 2)
        return rows, columns

    @property
    def token_grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of one frame of `image_size` after pooling."""
        rows, columns = (max(n - kernel + 1, 1) for n, kernel in zip(self.last_grid, self.pool_size, strict=True))
        return rows, columns

    @property
    def num_frame_tokens(self) -> int:
        """P, tokens of one frame of `image_size` after pooling."""
        rows, columns = self.token_grid
        return rows * columns


@strict
class LFVilaTextConfig(LFVilaBaseConfig):
    r"""Configuration of the text tower and the cross-modal encoder: BERT's layers in three slices (paper section 3.2).

    Args:
        vocab_size: Words of the tokenizer. Defaults to 30522 (BERT uncased).
        hidden_size: Width of every layer; must equal D, the channels after the video tower. Defaults to 1024.
        num_sentence_layers: Layers that read each sentence alone (released `num_local_layers`). Defaults to 8.
        num_paragraph_layers: Layers that read the paragraph (released `stage1_layers` minus `num_local_layers`).
            Defaults to 4.
        num_cross_modal_layers: Layers that read paragraph and video; 0 leaves out the cross-modal encoder and its
            heads. Defaults to 12.
        num_attention_heads: Heads of every layer. Defaults to 16.
        intermediate_size: Hidden width of the feed-forward networks. Defaults to 4096.
        hidden_act: Activation of the feed-forward networks. Defaults to `"gelu"`.
        hidden_dropout_prob: Dropout of embeddings and layer outputs. Defaults to 0.1.
        attention_probs_dropout_prob: Dropout on attention weights. Defaults to 0.1.
        max_position_embeddings: Positions of a sentence, and of a paragraph (limit of M * L). Defaults to 512.
        max_sentences: Segment embeddings, one per sentence of a paragraph. Defaults to 8.
        type_vocab_size: BERT's token types; only type 0 is used. Defaults to 2.
        initializer_range: Standard deviation of new weights. Defaults to 0.02.
        layer_norm_eps: Epsilon of every LayerNorm. Defaults to 1e-12.
        pad_token_id: Padding token. Defaults to 0.
        pool_padded_sentences: Whether padded sentences count in the mean that the paragraph token starts from, and a
            sentence that is all padding attends to its padding evenly, as released. Defaults to False: both are masked.
    """

    model_type = "lfvila_text_model"
    base_config_key = "text_config"
    bounds: ClassVar[dict[str, tuple[float, float]]] = {
        **_bounds(1, 10 * MAX_SIZE, "vocab_size"),
        **_bounds(1, MAX_SIZE, "hidden_size", "num_attention_heads", "intermediate_size"),
        **_bounds(1, MAX_SIZE, "max_position_embeddings", "max_sentences", "type_vocab_size"),
        **_bounds(0, MAX_LAYERS, "num_sentence_layers", "num_paragraph_layers", "num_cross_modal_layers"),
        **_bounds(0, MAX_NUMBER, "layer_norm_eps", "initializer_range"),
        **_bounds(0, 1, "hidden_dropout_prob", "attention_probs_dropout_prob"),
    }

    vocab_size: int = 30522
    hidden_size: int = 1024
    num_sentence_layers: int = 8
    num_paragraph_layers: int = 4
    num_cross_modal_layers: int = 12
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    max_position_embeddings: int = 512
    max_sentences: int = 8
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    pool_padded_sentences: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Check that the fields fit each other."""
        check_extra_fields(self, kwargs)
        self.check_fields()
        super().__post_init__(**kwargs)

    def check_fields(self) -> None:
        """Raise `ValueError` if fields disagree."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by num_attention_heads={self.num_attention_heads}. "
                f"Change one of them."
            )

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the text tower (sentence and paragraph slices), without the cross-modal encoder."""
        return self.num_sentence_layers + self.num_paragraph_layers


@strict
class LFVilaConfig(LFVilaBaseConfig):
    r"""Configuration of LF-VILA: two towers, four losses, one cross-modal encoder.

    Presets:

    | preset | video tower | text | D | parameters (`LFVilaForPreTraining`) |
    |---|---|---|---|---|
    | `LFVilaConfig.base()` | released size, 32 x 192 x 320 | BERT-large in 8 + 4 + 12 | 1024 | 461.5 M |
    | `LFVilaConfig.tiny()` | 16 x 48 x 80, embed_dim 16 | 2 + 1 + 2 layers | 128 | about 1.5 M |

    Args:
        video_config: A `LFVilaVideoConfig` or its fields. Defaults to `LFVilaVideoConfig()`.
        text_config: A `LFVilaTextConfig` or its fields. Defaults to `LFVilaTextConfig()`.
        temperature: Temperature of the global contrastive loss; logits are cosines divided by it. Defaults to 0.05.
        temporal_temperature: Temperature of MTC. Defaults to 0.05.
        global_loss_weight: Weight of the global contrastive loss in the contrastive phase. Defaults to 1.
        mtc_loss_weight: Weight of MTC in the contrastive phase. Defaults to 0.25.
        mlm_loss_weight: Weight of masked language modelling in the fusion phase. Defaults to 1.
        vtm_loss_weight: Weight of video-text matching in the fusion phase. Defaults to 10.
        span_loss_weight: Weight of the span loss of multiple choice. Defaults to 1.
        num_anchors: Anchors that MTC draws per video. Defaults to 2.
        num_candidates: Candidates that MTC draws per video. Defaults to 2.
        num_other_negatives: Clips of other videos that MTC adds as negatives to every anchor. Defaults to 3.
        temporal_alignment: Whether sentence and clip projections exist. Defaults to True. Without them (released
            retrieval checkpoints) there is no MTC and no *aligned* score.
        clip_feature_source: `"clip_level"`, clip features from `video_config.clip_level` as in the paper, or `"last"`,
            from the last level as the released code does by mistake. Defaults to `"clip_level"`.
        mtc_other_negatives: `"others"`, negatives come from other videos only, or `"released"`, the first of them is
            the video itself and the sentence mask is ignored. Defaults to `"others"`.
        cross_modal_fusion: `"merged"`, one sequence of both modalities (released), or `"co_attention"`, two streams
            that attend to each other. Defaults to `"merged"`.
        training_phase: `"contrastive"` or `"fusion"`, the phase that `LFVilaForPreTraining` runs if none is passed.
            Defaults to `"contrastive"`.
        video_position_layer_norm_eps: Epsilon of the LayerNorm over video tokens with their positions. Defaults to
            1e-5.
        initializer_range: Standard deviation of new projections and heads. Defaults to 0.02.
    """

    model_type = "lfvila"
    bounds: ClassVar[dict[str, tuple[float, float]]] = {
        **_bounds(MIN_TEMPERATURE, MAX_NUMBER, "temperature", "temporal_temperature"),
        **_bounds(0, MAX_NUMBER, "num_other_negatives", "initializer_range"),
        **_bounds(0, MAX_NUMBER, "global_loss_weight", "mtc_loss_weight", "mlm_loss_weight", "vtm_loss_weight"),
        **_bounds(0, MAX_NUMBER, "span_loss_weight", "video_position_layer_norm_eps"),
        **_bounds(1, MAX_SIZE, "num_anchors", "num_candidates"),
    }
    sub_configs = {"text_config": LFVilaTextConfig, "video_config": LFVilaVideoConfig}
    sub_configs_defaults: ClassVar[Any] = {"text_config": LFVilaTextConfig, "video_config": LFVilaVideoConfig}
    keys_to_ignore_at_inference = [
        "loss",
        "logits_per_text",
        "logits_per_video",
        "mlm_logits",
        "vtm_logits",
        "mlm_targets",
        "vtm_targets",
        "global_loss",
        "mtc_loss",
        "mlm_loss",
        "vtm_loss",
        "span_loss",
        "span_logits",
        "mtc_draw",
        "text_model_output",
        "video_model_output",
        "cross_modal_output",
        "hidden_states",
        "attentions",
    ]

    # Any: given as dict, configuration or None; always configurations after __post_init__.
    text_config: Any = None
    video_config: Any = None
    temperature: float | int = 0.05
    temporal_temperature: float | int = 0.05
    global_loss_weight: float | int = 1.0
    mtc_loss_weight: float | int = 0.25
    mlm_loss_weight: float | int = 1.0
    vtm_loss_weight: float | int = 10.0
    span_loss_weight: float | int = 1.0
    num_anchors: int = 2
    num_candidates: int = 2
    num_other_negatives: int = 3
    temporal_alignment: bool = True
    clip_feature_source: Literal["clip_level", "last"] = "clip_level"
    mtc_other_negatives: Literal["others", "released"] = "others"
    cross_modal_fusion: Literal["merged", "co_attention"] = "merged"
    training_phase: Literal["contrastive", "fusion"] = "contrastive"
    video_position_layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the two tower configurations and check that they fit each other."""
        check_extra_fields(self, kwargs)
        for name, tower in (("text_config", LFVilaTextConfig), ("video_config", LFVilaVideoConfig)):
            value = getattr(self, name)
            if value is None or isinstance(value, dict):
                setattr(self, name, tower(**(value or {})))
            elif getattr(value, "model_type", None) != tower.model_type:
                raise ValueError(f"{name} must be a {tower.__name__} or its fields, got {type(value).__name__}")
        self.check_fields()
        super().__post_init__(**kwargs)

    def check_fields(self) -> None:
        """Raise `ValueError` if fields disagree, in the towers as well."""
        self.text_config.check_fields()
        self.video_config.check_fields()
        if self.text_config.hidden_size != self.video_config.hidden_size:
            raise ValueError(
                f"both towers must end at the same width: text_config.hidden_size = {self.text_config.hidden_size}, "
                f"video_config ends at {self.video_config.hidden_size} (embed_dim = {self.video_config.embed_dim} "
                f"doubled by each of {len(self.video_config.merge_after)} mergings)"
            )

    @classmethod
    def base(cls, **overrides: Any) -> "LFVilaConfig":
        """Build the released size: 32 frames of 192 x 320 pixels, Swin-B-shaped video tower, BERT-large (all defaults).

        Args:
            **overrides: Fields that replace the defaults.
        """
        return cls(**overrides)

    @classmethod
    def tiny(cls, **overrides: Any) -> "LFVilaConfig":
        """Build a size for tests and demonstrations: 16 frames of 48 x 80 pixels, D = 128.

        Args:
            **overrides: Fields that replace the preset's. `video_config` and `text_config` are dicts and replace single
                fields of a tower.

        Raises:
            ValueError: A tower's fields are no dict, or fields do not fit each other.
        """
        video = {
            "image_size": [48, 80],
            "num_frames": 16,
            "embed_dim": 16,
            "depths": [1, 1, 2, 1, 1, 1],
            "num_heads": [1, 2, 4, 4, 4, 8],
            "temporal_windows": [2, 4, 4, 8, 8, 16],
            "drop_path_rate": 0.0,
            "initializer_range": 0.1,  # narrow layers need larger weights: 0.02 suits fan-ins of a thousand
        }
        text = {
            "vocab_size": 512,
            "hidden_size": 128,
            "num_sentence_layers": 2,
            "num_paragraph_layers": 1,
            "num_cross_modal_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "initializer_range": 0.05,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        for name, preset in (("video_config", video), ("text_config", text)):
            given = overrides.pop(name, None)
            if not isinstance(given, dict | None):
                raise ValueError(f"{name} of a preset must be a dict of fields, got {type(given).__name__}")
            preset |= given or {}
        return cls(video_config=video, text_config=text, **({"initializer_range": 0.05} | overrides))

    @property
    def hidden_size(self) -> int:
        """D, the width shared by both towers at the top."""
        return self.text_config.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Layers of text tower and cross-modal encoder together."""
        return self.text_config.num_hidden_layers + self.text_config.num_cross_modal_layers

    @property
    def num_attention_heads(self) -> int:
        """Heads of a text layer."""
        return self.text_config.num_attention_heads

    @property
    def num_frames(self) -> int:
        """T, which is `video_config.num_frames`; pipelines of transformers read it here."""
        return self.video_config.num_frames

    @property
    def num_clips(self) -> int:
        """K, which is `video_config.num_clips`."""
        return self.video_config.num_clips


__all__ = ["LFVilaConfig", "LFVilaTextConfig", "LFVilaVideoConfig"]
