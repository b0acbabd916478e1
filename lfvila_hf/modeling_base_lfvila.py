# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Output classes, eager attention, padding masks and the base class of all LF-VILA models.

The base class also loads weights and adapters, and changes the size of video of a trained model. Three kinds of
parameter belong to a size: tables of relative position bias, temporal and spatial positions of video tokens. A resized
parameter is a new object, and one whose size does not change keeps its bits.

Letters: B videos, T frames, K clips, M sentences, L tokens, H W pixels, h w patch grid, P tokens per frame, C channels
of a level, D shared width, N answers. Mask value 1 means "real", 0 means "padding".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, TransformersKwargs

from .configuration_lfvila import LFVilaConfig, LFVilaTextConfig
from .loading_lfvila import align_weights, flatten_int8_inputs, load_adapter_heads, unsharded_class
from .loss_lfvila import MTCDraw

LONGEST_GROWN_WINDOW = 64
"""Frames up to which the last temporal window grows with the video; longer videos are cut into several windows."""

# -- outputs ---------------------------------------------------------------------------------------------------------


@dataclass
class LFVilaVideoModelOutput(ModelOutput):
    """Output of the video tower (and of `LFVilaModel.get_video_features`).

    Args:
        last_hidden_state: Last level after its LayerNorm, `(B, T, h, w, D)`.
        pooler_output: Mean of all pooled tokens, `(B, D)`; from `get_video_features`, its projection.
        clip_hidden_state: Clip level after its own merging and LayerNorm, `(B, T, h', w', D)`.
        tokens: Last level after max-pooling, `(B, T, P, D)`.
        video_embeds: Projected, L2-normalised video features, `(B, D)`; only from `get_video_features`.
        clip_embeds: Projected, L2-normalised clip features, `(B, K, D)`; only from `get_video_features`.
        hidden_states: Input of the first block and output of every block, each `(B, T, h, w, C)`.
        attentions: Attention weights of every block, each `(windows, A, V, V)`; needs `attn_implementation="eager"`.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]  # always set
    pooler_output: torch.Tensor = None  # type: ignore[assignment]  # always set
    clip_hidden_state: torch.Tensor = None  # type: ignore[assignment]  # always set
    tokens: torch.Tensor = None  # type: ignore[assignment]  # always set
    video_embeds: torch.Tensor | None = None
    clip_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class LFVilaTextModelOutput(ModelOutput):
    """Output of the text tower (and of `LFVilaModel.get_text_features`).

    Args:
        last_hidden_state: Paragraph token and all text tokens after the paragraph layers, `(B, 1 + M*L, D)`.
        pooler_output: The paragraph token, `(B, D)`; from `get_text_features`, its projection.
        sentence_hidden_state: Text tokens after the sentence layers, `(B, M, L, D)`.
        attention_mask: Mask over `last_hidden_state`, `(B, 1 + M*L)`.
        sentence_mask: 1 for sentences with at least one real token, `(B, M)`.
        text_embeds: Projected, L2-normalised paragraph features, `(B, D)`; only from `get_text_features`.
        sentence_embeds: Projected, L2-normalised sentence features, `(B, M, D)`; only from `get_text_features`.
        hidden_states: Input and outputs of the layers: `(B*M, L, D)` in the sentence slice, `(B, 1 + M*L, D)` after.
        attentions: Attention weights of every layer; needs `attn_implementation="eager"`.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]  # always set
    pooler_output: torch.Tensor = None  # type: ignore[assignment]  # always set
    sentence_hidden_state: torch.Tensor = None  # type: ignore[assignment]  # always set
    attention_mask: torch.Tensor = None  # type: ignore[assignment]  # always set
    sentence_mask: torch.Tensor = None  # type: ignore[assignment]  # always set
    text_embeds: torch.Tensor | None = None
    sentence_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class LFVilaCrossModalOutput(ModelOutput):
    """Output of the cross-modal encoder.

    Args:
        last_hidden_state: Paragraph token, text tokens, video tokens, `(B, 1 + M*L + T*P, D)`.
        pooler_output: Tanh-pooled paragraph token, `(B, D)`.
        hidden_states: Input and output of every layer (of the text stream in co-attention).
        attentions: Attention weights of every layer; needs `attn_implementation="eager"`.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]  # always set
    pooler_output: torch.Tensor = None  # type: ignore[assignment]  # always set
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class LFVilaOutput(ModelOutput):
    """Output of `LFVilaModel`, and of `LFVilaForPreTraining` in both phases (fields of the other phase stay `None`).

    Args:
        loss: Weighted sum of the phase's terms; only with `return_loss` and as many texts as videos.
        logits_per_text: Cosines over the temperature, `(texts, videos)`.
        logits_per_video: Transpose of `logits_per_text`, `(videos, texts)`.
        text_embeds: Paragraph features, projected and L2-normalised, `(B, D)`.
        video_embeds: Video features, projected and L2-normalised, `(B, D)`.
        sentence_embeds: Sentence features, projected and L2-normalised, `(B, M, D)`.
        clip_embeds: Clip features, projected and L2-normalised, `(B, K, D)`.
        sentence_mask: 1 for real sentences, `(B, M)`.
        mtc_draw: Positions that MTC used, an `MTCDraw`.
        global_loss: Unweighted global contrastive loss, a scalar.
        mtc_loss: Unweighted multimodal temporal contrastive loss, a scalar.
        mlm_loss: Unweighted loss of masked language modelling, a scalar.
        vtm_loss: Unweighted loss of video-text matching, a scalar.
        mlm_logits: `(B, 1 + M*L + T*P, vocabulary)`.
        vtm_logits: `(B, 2)`; class 1 is "belongs together".
        mlm_targets: Targets in use, `(B, M, L)`, -100 for no target (all of a mismatched pair).
        vtm_targets: Targets in use, `(B,)`.
        text_model_output: The text tower's output.
        video_model_output: The video tower's output.
        cross_modal_output: The cross-modal encoder's output.
    """

    loss: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    logits_per_video: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    video_embeds: torch.Tensor | None = None
    sentence_embeds: torch.Tensor | None = None
    clip_embeds: torch.Tensor | None = None
    sentence_mask: torch.Tensor = None  # type: ignore[assignment]  # always set
    mtc_draw: MTCDraw | None = None
    global_loss: torch.Tensor | None = None
    mtc_loss: torch.Tensor | None = None
    mlm_loss: torch.Tensor | None = None
    vtm_loss: torch.Tensor | None = None
    mlm_logits: torch.Tensor | None = None
    vtm_logits: torch.Tensor | None = None
    mlm_targets: torch.Tensor | None = None
    vtm_targets: torch.Tensor | None = None
    text_model_output: LFVilaTextModelOutput | None = None
    video_model_output: LFVilaVideoModelOutput | None = None
    cross_modal_output: LFVilaCrossModalOutput | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """Return all fields that are set, nested outputs as tuples."""
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in (self[k] for k in self.keys()))


@dataclass
class LFVilaHeadOutput(ModelOutput):
    """Output of the task heads.

    Args:
        loss: Task loss, plus the weighted span loss if span targets are given; only with labels.
        logits: Class or choice logits, `(B, num_labels)` or `(B, N)`.
        span_logits: `(B, T, 2)`, class 1 is "frame t answers the question"; multiple choice only.
        span_loss: Unweighted span loss, a scalar; multiple choice with span targets only.
        hidden_states: Hidden states of the cross-modal encoder (in classification: of the video tower).
        attentions: Attention weights of the same layers; needs `attn_implementation="eager"`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    span_logits: torch.Tensor | None = None
    span_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


# -- attention -------------------------------------------------------------------------------------------------------


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend with query, key, value `(B, A, L, d)` and an additive mask; the softmax runs in float32 or wider.

    Returns:
        `(B, L, A, d)` and the weights `(B, A, L, L)`.
    """
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling  # (B, A, L, L)
    if attention_mask is not None:
        weights = weights + attention_mask
    precision = torch.promote_types(query.dtype, torch.float32)
    weights = F.softmax(weights, dim=-1, dtype=precision).to(query.dtype)
    dropped = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(dropped, value).transpose(1, 2).contiguous(), weights


def backend_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the keyword arguments that transformers defines for attention backends.

    Backends differ in what they do with others: one ignores them, another raises. Here all ignore them, also text
    inputs that a video-only model is called with.
    """
    return {name: value for name, value in options.items() if name in TransformersKwargs.__annotations__}


def takes_additive_mask(config: LFVilaTextConfig) -> bool:
    """Return whether the configured attention backend adds its mask to the scores."""
    return config._attn_implementation in (None, "eager", "sdpa")


def padding_mask(config: LFVilaTextConfig, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> Any:
    """Build the padding mask in the form that the configured attention backend takes.

    Eager and sdpa get an additive mask whose padding is half the smallest number of the dtype, not minus infinity. A
    row of nothing but padding then attends evenly, as in the released model, instead of giving NaN, and adding a
    negative score does not overflow in float16. Under autocast the dtype is autocast's, to which sdpa casts.

    Args:
        config: Configuration of the layers, so that mask and backend cannot disagree.
        hidden_states: `(B, L, D)`, for dtype and device.
        attention_mask: `(B, L)`, 1 for real tokens.

    Raises:
        ValueError: The backend cannot attend to padding, which `pool_padded_sentences=True` asks for.
    """
    if takes_additive_mask(config):
        device = hidden_states.device.type
        autocasts = device != "meta" and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocasts else hidden_states.dtype
        return (1.0 - attention_mask[:, None, None].to(dtype)) * (torch.finfo(dtype).min / 2)  # (B, 1, 1, L)
    if config.pool_padded_sentences:
        raise ValueError(
            f'attn_implementation="{config._attn_implementation}" cannot attend to padding as '
            'pool_padded_sentences=True asks for; use "eager" or "sdpa"'
        )
    return create_bidirectional_mask(config=config, inputs_embeds=hidden_states, attention_mask=attention_mask)


# -- base class ------------------------------------------------------------------------------------------------------


# Parts of LF-VILA models; every class has some of them.
PARTS = (
    *("video_model", "text_model", "cross_modal_encoder", "video_projection", "text_projection"),
    *("sentence_projection", "clip_projection", "mlm_head", "vtm_head", "classifier", "span_classifier"),
)


class LFVilaPreTrainedModel(PreTrainedModel):
    """Base class: configuration, loading, weight initialisation, attention backends, size of video."""

    config: LFVilaConfig
    # transformers would read the class from the annotation above, but a postponed annotation is a string.
    config_class: Any = LFVilaConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["video", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["LFVilaVideoLayer", "LFVilaTextLayer", "LFVilaTextEmbeddings", "LFVilaCoAttentionLayer"]
    _supports_sdpa = True
    _supports_flash_attn = False  # the video tower adds a learned bias to its scores, which flash kernels do not take
    _supports_flex_attn = False
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _input_embed_layer = "word_embeddings"
    # Terms are means over the batch, not sums over items: the Trainer must divide by the accumulation steps itself.
    accepts_loss_kwargs = False
    # Modules that start from random weights in a new task; they are saved with an adapter.
    head_modules: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        # By model_type, because remote code may hold the configuration class in another module than this one.
        expected, found = self.config_class.model_type, getattr(config, "model_type", None)
        if found != expected:
            raise ValueError(
                f"{type(self).__name__} takes a {self.config_class.__name__} (model_type {expected!r}), got a "
                f"{type(config).__name__} (model_type {found!r})"
            )
        config.check_fields()
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        num_frames: int | None = None,
        temporal_windows: Sequence[int] | None = None,
        image_size: Sequence[int] | None = None,
        spatial_window: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load a model as in transformers, and change its size of video if another one is given.

        Args:
            pretrained_model_name_or_path: Folder, repository on the Hub, or `None` with a `state_dict`.
            *model_args: Passed to transformers.
            num_frames: T; see `set_num_frames`. Defaults to the stored number.
            temporal_windows: Temporal window of each level; see `set_num_frames`.
            image_size: Height and width of a frame in pixels; see `set_image_size`. Defaults to the stored size.
            spatial_window: Rows and columns of a window; see `set_image_size`.
            **kwargs: Passed to transformers.

        Raises:
            ValueError: The weights are damaged, or a size of video does not fit.
        """
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except Exception as error:
            if type(error).__name__ != "SafetensorError":  # by name: safetensors belongs to transformers
                raise
            raise ValueError(
                f"the weights of {pretrained_model_name_or_path} are damaged or cut off ({error}). Copy or download "
                f"them again."
            ) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if any(size is not None for size in (num_frames, temporal_windows, image_size, spatial_window)):
            resize_model(model, num_frames, temporal_windows, image_size, spatial_window)
        align_weights(model)
        flatten_int8_inputs(model)
        for module in model.modules():  # loaded parameters are new objects, which learn
            if isinstance(module, LFVilaPreTrainedModel):
                module.freeze_unread()
        return loaded

    def post_init(self) -> None:
        """Finish as in transformers; parts that only other LF-VILA models have are no surprise in a checkpoint."""
        super().post_init()
        own = {name.rpartition(".")[2] for name, _ in self.named_modules() if name.count(".") < 2}
        absent = [name for name in PARTS if name not in own]
        self._keys_to_ignore_on_load_unexpected = {rf"(^|\.)({'|'.join(absent)})\."} if absent else set()

    def freeze_unread(self) -> None:
        """Freeze parameters that this model never reads; there are none by default."""

    def load_adapter(
        self,
        peft_model_id: str | None = None,
        adapter_name: str | None = None,
        peft_config: dict[str, Any] | None = None,
        adapter_state_dict: dict[str, torch.Tensor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Load an adapter as in transformers, together with the heads saved with it.

        Args:
            peft_model_id: Folder or repository of the adapter.
            adapter_name: Name of the adapter in this model. Defaults to "default".
            peft_config: Configuration that replaces the stored one.
            adapter_state_dict: Weights that replace the stored ones.
            *args: Passed to transformers.
            **kwargs: Passed to transformers.
        """
        loaded = super().load_adapter(peft_model_id, adapter_name, peft_config, adapter_state_dict, *args, **kwargs)
        if any(".modules_to_save." in name for name in loaded.missing_keys):
            load_adapter_heads(self, peft_model_id, adapter_name or "default", loaded, adapter_state_dict, **kwargs)
        align_weights(self)
        return loaded

    @classmethod
    def from_pretrained_towers(
        cls,
        video: Any = None,
        text: Any = None,
        config: Any = None,
        output_loading_info: bool = False,
        **overrides: Any,
    ) -> Any:
        """Build a model whose towers start from a 2-D Swin and a BERT, as the release does.

        Swin is inflated into the video tower. BERT's layers are split over the sentence, paragraph and cross-modal
        slices. Projections, segment embeddings and positions of video tokens start from random numbers. Needs the
        package `lfvila_hf` (its folder `conversion`), not the files of a checkpoint alone.

        Args:
            video: The `.pth` of Swin's authors, a folder or repository with a `SwinModel` of transformers, or such a
                model. Defaults to `None`, a new video tower.
            text: A folder or repository with a `BertModel`, `BertForMaskedLM` or `BertForPreTraining`, or such a model.
                Defaults to `None`, a new text side.
            config: The configuration. Defaults to one derived from both towers: Swin-B and BERT-large give the
                released size.
            output_loading_info: Whether to also return a `TowerReport` of new and unused parameters.
            **overrides: Fields of the derived configuration; `video_config` and `text_config` given as dicts replace
                single fields.

        Raises:
            ValueError: The sources are not a Swin and a BERT, or sizes do not fit; all problems are listed.
            ImportError: The package `lfvila_hf` is not installed.
        """
        try:  # checkpoints load without the package
            from lfvila_hf.conversion.towers import from_towers
        except ImportError as error:
            raise ImportError(
                "from_pretrained_towers needs the package lfvila_hf, a checkpoint's own files do not suffice; install "
                "lfvila_hf"
            ) from error
        model, report = from_towers(cls, video, text, config, **overrides)
        return (model, report) if output_loading_info else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save as in transformers.

        A model that FSDP 2 has sharded is saved if its full `state_dict` is given, as trainers do (by hand:
        `accelerator.get_state_dict(model)`). `fully_shard` replaces the class of a model by `FSDP<Name>`, while code
        files and `auto_map` are looked up by class. The original class is restored during saving.
        """
        given = type(self)
        self.__class__ = unsharded_class(given)
        try:
            return super().save_pretrained(*args, **kwargs)
        finally:
            self.__class__ = given

    def records_layers(self, kwargs: Mapping[str, Any]) -> bool:
        """Return whether a call with these keyword arguments returns hidden states or attention weights of layers."""
        names = ("output_hidden_states", "output_attentions")
        return any(kwargs.get(name, getattr(self.config, name)) for name in names)

    def set_num_frames(self, num_frames: int, temporal_windows: Sequence[int] | None = None) -> None:
        """Change the number of frames T that the model reads.

        Bias tables are resized if windows change, temporal positions are interpolated, the configuration follows.
        Changed parameters are new objects, so create the optimizer afterwards. Tell the processor separately.

        Args:
            num_frames: The new T.
            temporal_windows: Temporal window of each level. By default a last window that spans the video continues to
                do so up to 64 frames ([2, 4, 8, 16, 32, 64] for 64 frames of a released model). Longer videos are cut
                into several windows.

        Raises:
            ValueError: T is not positive, not divisible by K in a model with clip features, or the number of windows
                is not the number of levels. The model is unchanged then.
        """
        resize_model(self, num_frames=num_frames, temporal_windows=temporal_windows)

    def set_image_size(self, image_size: Sequence[int], spatial_window: Sequence[int] | None = None) -> None:
        """Change the height and width of frames that the model reads; spatial positions are interpolated.

        Args:
            image_size: Height and width in pixels.
            spatial_window: Rows and columns of a window. Defaults to the present ones; bias tables are resized
                otherwise.

        Raises:
            ValueError: Not two positive numbers. The model is unchanged then.
        """
        resize_model(self, image_size=image_size, spatial_window=spatial_window)


# -- size of video ---------------------------------------------------------------------------------------------------


def temporal_windows_for(config: Any, num_frames: int) -> list[int]:
    """Choose the temporal windows of a video tower for another number of frames.

    A last window that spans the whole video continues to do so, up to 64 frames. Levels between it and the clip level
    follow, each at least half as long as the next: 32 frames with [2, 4, 8, 16, 16, 32] become 64 frames with
    [2, 4, 8, 16, 32, 64]. 128 or 256 frames keep these windows. Windows never shrink (shorter videos use a part of
    them). Windows of the clip level and below never change, so that no information crosses a clip.

    Args:
        config: The present `LFVilaVideoConfig`.
        num_frames: The new T.
    """
    windows = list(config.temporal_windows)
    last = min(num_frames, LONGEST_GROWN_WINDOW)
    if windows[-1] < config.num_frames or last <= windows[-1]:
        return windows
    top = len(windows) - 1
    for level in range(config.clip_level + 1, len(windows)):
        windows[level] = max(windows[level], last >> (top - level))
    return windows


def resized_parameter(old: nn.Parameter, data: torch.Tensor) -> nn.Parameter:
    """Wrap `data` as a parameter that is trained if `old` is; returns `old` itself if nothing changed."""
    return old if data is old else nn.Parameter(data.detach(), requires_grad=old.requires_grad)


def resize_model(
    model: nn.Module,
    num_frames: int | None = None,
    temporal_windows: Sequence[int] | None = None,
    image_size: Sequence[int] | None = None,
    spatial_window: Sequence[int] | None = None,
) -> None:
    """Fit a model and its configuration to another size of video, in place.

    Args:
        model: Any LF-VILA model.
        num_frames: T. Defaults to the present number.
        temporal_windows: Temporal window of each level. Defaults to `temporal_windows_for(...)`.
        image_size: Height and width of a frame. Defaults to the present size.
        spatial_window: Rows and columns of a window. Defaults to the present window.

    Raises:
        ValueError: The sizes do not fit each other, or T is not divisible by K in a model with clip features. Nothing
            is changed then.
    """
    configs = _video_configs(model)
    old = configs[0]
    frames = old.num_frames if num_frames is None else num_frames
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise ValueError(f"num_frames must be a positive integer, got {num_frames!r}")
    makes_clips = any(getattr(module, "clip_projection", None) is not None for module in model.modules())
    if makes_clips and frames % old.num_clips:
        raise ValueError(
            f"num_frames={frames} is not divisible by num_clips={old.num_clips}. Use a multiple of {old.num_clips}."
        )
    changes: dict[str, Any] = {
        "num_frames": frames,
        "temporal_windows": list(temporal_windows_for(old, frames) if temporal_windows is None else temporal_windows),
        "image_size": list(old.image_size if image_size is None else image_size),
        "spatial_window": list(old.spatial_window if spatial_window is None else spatial_window),
    }
    new = type(old)(**(old.to_dict() | changes))  # checks that the sizes fit each other
    for module in model.modules():
        resize = getattr(module, "resize_video", None)
        if resize is not None:
            resize(old, new)
    for config in configs:
        for name in changes:
            setattr(config, name, getattr(new, name))


def _video_configs(model: nn.Module) -> list[Any]:
    """Return every configuration object in the model that holds the size of video."""
    found: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        config = getattr(config, "video_config", config)
        if hasattr(config, "temporal_windows"):
            found[id(config)] = config
    if not found:
        raise ValueError(f"{type(model).__name__} has no video side, so it has no number of frames and no frame size")
    return list(found.values())


def interpolation_dtype(values: torch.Tensor) -> torch.dtype:
    """Return the dtype to interpolate in: float32 for half precision, else that of `values`."""
    return torch.promote_types(values.dtype, torch.float32)
