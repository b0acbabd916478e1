# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""What all LF-VILA models share: output classes, the attention function, masks, the base class.

Letters: B videos, T frames, K clips, M sentences, L tokens, H W pixels, h w patch grid, P tokens per frame, C channels
of a level, D shared width, N answers. Mask value 1 means "real", 0 means "padding".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_lfvila import LFVilaConfig, LFVilaTextConfig
from .loading_lfvila import align_weights, load_adapter_heads, take_int8_by_rows, unsharded_class
from .loss_lfvila import MTCDraw
from .resizing_lfvila import resize_model
from .towers_lfvila import from_towers


@dataclass
class LFVilaVideoModelOutput(ModelOutput):
    """Output of the video tower (and of `LFVilaModel.get_video_features`).

    Attributes:
        last_hidden_state: last level after its LayerNorm, `(B, T, h, w, D)`.
        pooler_output: mean of all pooled tokens, `(B, D)`; from `get_video_features`, its projection.
        clip_hidden_state: clip level after its own merging and LayerNorm, `(B, T, h', w', D)`.
        tokens: last level after max-pooling, `(B, T, P, D)`.
        video_embeds: projected, L2-normalised video feature, `(B, D)`; only from `get_video_features`.
        clip_embeds: projected, L2-normalised clip features, `(B, K, D)`; only from `get_video_features`.
        hidden_states: input of the first block and output of every block, each `(B, T, h, w, C)`.
        attentions: attention weights of every block, each `(windows, A, V, V)`; needs `attn_implementation="eager"`.
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

    Attributes:
        last_hidden_state: paragraph token and all text tokens after the paragraph layers, `(B, 1 + M*L, D)`.
        pooler_output: the paragraph token, `(B, D)`; from `get_text_features`, its projection.
        sentence_hidden_state: text tokens after the sentence layers, `(B, M, L, D)`.
        attention_mask: mask over `last_hidden_state`, `(B, 1 + M*L)`.
        sentence_mask: 1 for sentences with at least one real token, `(B, M)`.
        text_embeds: projected, L2-normalised paragraph feature, `(B, D)`; only from `get_text_features`.
        sentence_embeds: projected, L2-normalised sentence features, `(B, M, D)`; only from `get_text_features`.
        hidden_states: input and outputs of the layers: `(B*M, L, D)` in the sentence slice, `(B, 1 + M*L, D)` after.
        attentions: attention weights of every layer; needs `attn_implementation="eager"`.
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

    Attributes:
        last_hidden_state: paragraph token, text tokens, video tokens, `(B, 1 + M*L + T*P, D)`.
        pooler_output: tanh-pooled paragraph token, `(B, D)`.
        hidden_states: input and output of every layer (of the text stream in co-attention).
        attentions: attention weights of every layer; needs `attn_implementation="eager"`.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]  # always set
    pooler_output: torch.Tensor = None  # type: ignore[assignment]  # always set
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class LFVilaOutput(ModelOutput):
    """Output of `LFVilaModel`, and of `LFVilaForPreTraining` in both phases (fields of the other phase stay `None`).

    Attributes:
        loss: weighted sum of the phase's terms; only with `return_loss` and as many texts as videos.
        logits_per_text: cosines over the temperature, `(texts, videos)`.
        logits_per_video: its transpose.
        text_embeds: paragraph features, projected and L2-normalised, `(B, D)`.
        video_embeds: video features, projected and L2-normalised, `(B, D)`.
        sentence_embeds: sentence features, projected and L2-normalised, `(B, M, D)`.
        clip_embeds: clip features, projected and L2-normalised, `(B, K, D)`.
        sentence_mask: 1 for real sentences, `(B, M)`.
        mtc_draw: positions that MTC used, an `MTCDraw`.
        global_loss: unweighted.
        mtc_loss: unweighted.
        mlm_loss: unweighted.
        vtm_loss: unweighted.
        mlm_logits: `(B, 1 + M*L + T*P, vocabulary)`.
        vtm_logits: `(B, 2)`; class 1 is "belongs together".
        mlm_targets: targets in use, `(B, M, L)`, -100 where none (also everywhere on mismatched pairs).
        vtm_targets: targets in use, `(B,)`.
        text_model_output: the text tower's output.
        video_model_output: the video tower's output.
        cross_modal_output: the cross-modal encoder's output.
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
        """All fields that are set, nested outputs as tuples."""
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in (self[k] for k in self.keys()))


@dataclass
class LFVilaHeadOutput(ModelOutput):
    """Output of the task heads.

    Attributes:
        loss: task loss (with the span term where span targets are given), only with labels.
        logits: class or choice logits, `(B, num_labels)` or `(B, N)`.
        span_logits: `(B, T, 2)`, multiple choice only: does frame t answer the question.
        span_loss: unweighted, multiple choice with span targets only.
        hidden_states: of the cross-modal encoder (of the video tower in classification).
        attentions: likewise.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    span_logits: torch.Tensor | None = None
    span_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


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
    """Plain attention: query, key, value `(B, A, L, d)` and an additive mask; softmax in float32 or wider.

    Returns `(B, L, A, d)` and the weights.
    """
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling  # (B, A, L, L)
    if attention_mask is not None:
        weights = weights + attention_mask
    precision = torch.promote_types(query.dtype, torch.float32)
    weights = F.softmax(weights, dim=-1, dtype=precision).to(query.dtype)
    dropped = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(dropped, value).transpose(1, 2).contiguous(), weights


def takes_additive_mask(config: LFVilaTextConfig) -> bool:
    """Whether the attention backend in use adds the mask to the scores."""
    return config._attn_implementation in (None, "eager", "sdpa")


def padding_mask(config: LFVilaTextConfig, hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> Any:
    """What the attention backend in use wants for a padding mask.

    Eager and sdpa get an additive mask whose padding is half the smallest number of the dtype and not minus infinity: a
    row that is all padding then attends evenly (finite; what the released model does) instead of giving NaN, and adding
    a negative score to it does not overflow in float16. Under autocast the dtype is autocast's, which sdpa casts to.

    Args:
        config: the configuration that the layers hold too, so that mask and backend cannot disagree.
        hidden_states: `(B, L, D)`, for dtype and device.
        attention_mask: `(B, L)`, 1 for real tokens.
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


class LFVilaPreTrainedModel(PreTrainedModel):
    """What all LF-VILA models share: configuration, weight initialisation, attention backends."""

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
    # Modules that a task trains from nothing; an adapter is saved with them.
    head_modules: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        # By model_type, because remote code may hold the configuration class in another module than this one.
        expected, found = self.config_class.model_type, getattr(config, "model_type", None)
        if found != expected:
            raise ValueError(
                f"{type(self).__name__} takes a {self.config_class.__name__} (model_type {expected!r}), got a "
                f"{type(config).__name__} (model_type {found!r})"
            )
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
        """Load a model as in transformers; at its stored size of video, which is then changed if another is given.

        Args:
            pretrained_model_name_or_path: folder, repository on the Hub, or `None` with a `state_dict`.
            *model_args: handed on to transformers.
            num_frames: T; see `set_num_frames`.
            temporal_windows: windows per level; see `set_num_frames`.
            image_size: height and width of a frame; see `set_image_size`.
            spatial_window: rows and columns of a window; see `set_image_size`.
            **kwargs: handed on to transformers.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if any(size is not None for size in (num_frames, temporal_windows, image_size, spatial_window)):
            resize_model(model, num_frames, temporal_windows, image_size, spatial_window)
        align_weights(model)
        take_int8_by_rows(model)
        return loaded

    def load_adapter(
        self,
        peft_model_id: str | None = None,
        adapter_name: str | None = None,
        peft_config: dict[str, Any] | None = None,
        adapter_state_dict: dict[str, torch.Tensor] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Load an adapter as in transformers, with the heads that were saved with it and the bits of its training.

        Args:
            peft_model_id: folder or repository of the adapter.
            adapter_name: what to call it; "default" where not given.
            peft_config: configuration in place of the stored one.
            adapter_state_dict: weights in place of the stored ones.
            *args: handed on to transformers.
            **kwargs: handed on to transformers.
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
        """A new model whose towers start from a 2-D Swin and a BERT.

        Swin is inflated into the video tower, BERT's layers are split over the sentence, paragraph and cross-modal
        slices; see towers_lfvila.py. What neither has (projections, segment embeddings, positions of video tokens)
        starts from random numbers.

        Args:
            video: the `.pth` of Swin's authors, a folder or repository with a `SwinModel` of transformers, or such a
                model; without it the video tower is new.
            text: a folder or repository with a `BertModel`, `BertForMaskedLM` or `BertForPreTraining`, or such a model;
                without it the text side is new.
            config: the configuration. Without it, one is derived from both towers: Swin-B and BERT-large give the
                released size.
            output_loading_info: also return which parameters are new and which were of no use, a `TowerReport`.
            **overrides: fields of the derived configuration; `video_config` and `text_config` given as dicts replace
                single fields.

        Raises:
            ValueError: something else than a Swin or a BERT, or sizes that do not fit, all of them listed.
        """
        model, report = from_towers(cls, video, text, config, **overrides)
        return (model, report) if output_loading_info else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save as in transformers, also a model that FSDP 2 has sharded, where its whole `state_dict` is given.

        Trainers give it; by hand it is that of `accelerator.get_state_dict(model)`. `fully_shard` gives a model a class
        of its own, `FSDP<Name>` in one of torch's files. The files of code and the `auto_map` are looked up by class:
        that of LF-VILA is put back for as long as saving takes.
        """
        given = type(self)
        self.__class__ = unsharded_class(given)
        try:
            return super().save_pretrained(*args, **kwargs)
        finally:
            self.__class__ = given

    def set_num_frames(self, num_frames: int, temporal_windows: Sequence[int] | None = None) -> None:
        """Read videos of another number of frames T from now on.

        Bias tables are resized where windows change, temporal positions are interpolated, the configuration follows.
        Parameters that change are new objects: make the optimizer afterwards. The processor samples frames on its own
        account and has to be told too.

        Args:
            num_frames: the new T.
            temporal_windows: windows per level. By default a last window that spans the video goes on doing so up to 64
                frames ([2, 4, 8, 16, 32, 64] for 64 of a released model); longer videos are cut into several windows.

        Raises:
            ValueError: no positive number, not divisible by K in a model that makes clip features, or one window per
                level is not what was given. The model is unchanged then.
        """
        resize_model(self, num_frames=num_frames, temporal_windows=temporal_windows)

    def set_image_size(self, image_size: Sequence[int], spatial_window: Sequence[int] | None = None) -> None:
        """Read frames of another height and width from now on; positions of a frame's tokens are interpolated.

        Args:
            image_size: height and width in pixels.
            spatial_window: rows and columns of a window, as they are by default; bias tables are resized otherwise.

        Raises:
            ValueError: not two positive numbers. The model is unchanged then.
        """
        resize_model(self, image_size=image_size, spatial_window=spatial_window)
