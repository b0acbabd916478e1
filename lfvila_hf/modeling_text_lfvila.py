# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Text tower and cross-modal encoder: BERT's layers in three slices.

Paper section 3.2; released `src/modeling/text_encoder.py` (microsoft/XPretrain, LF-VILA, MIT). The first slice reads
each sentence alone, the second the paragraph, the third paragraph and video together. Parameter names inside a
layer are BERT's, so that a BERT checkpoint maps onto the slices by prefix.

Letters: B videos (in a layer: rows), T frames, M sentences, L tokens, P tokens per frame, D shared width, A attention
heads, d width of a head. Mask value 1 means "real", 0 means "padding".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_lfvila import LFVilaConfig, LFVilaTextConfig, LFVilaVideoConfig
from .modeling_base_lfvila import (
    LFVilaCrossModalOutput,
    LFVilaPreTrainedModel,
    LFVilaTextModelOutput,
    backend_options,
    eager_attention_forward,
    interpolation_dtype,
    padding_mask,
    resized_parameter,
    takes_additive_mask,
)

# -- BERT's layer ----------------------------------------------------------------------------------------------------


class LFVilaTextSelfAttention(nn.Module):
    """Multi-head attention of BERT; keys and values may come from another sequence (co-attention).

    With `pool_padded_sentences`, rows that are all padding are read, and the backend is eager: fused kernels compute a
    wrong gradient for such a row, because the large mask absorbs the number of tokens in their log-sum-exp.
    """

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.attention_dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        source: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend from one sequence to another.

        Args:
            hidden_states: `(B, L, D)`.
            attention_mask: Mask over `source` in the form of the backend, see `padding_mask`.
            source: `(B, L', D)`. Defaults to `hidden_states`.
            **kwargs: Options of the backend.

        Returns:
            `(B, L, D)`, and the weights `(B, A, L, L')` if the backend returns them.
        """
        source = hidden_states if source is None else source
        projected = (self.query(hidden_states), self.key(source), self.value(source))
        query, key, value = (
            one.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for one in projected
        )  # (B, A, L, d)
        backend = "eager" if self.config.pool_padded_sentences else self.config._attn_implementation
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        out, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs)
        return out.flatten(2).contiguous(), weights  # (B, L, D)


class LFVilaTextResidual(nn.Module):
    """Linear, dropout, residual, LayerNorm: the second half of BERT's attention and of its feed-forward network."""

    def __init__(self, config: LFVilaTextConfig, in_features: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Map `(B, L, in)` and the residual `(B, L, D)` to `(B, L, D)`."""
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + residual)


class LFVilaTextAttention(nn.Module):
    """Self- or co-attention with residual and LayerNorm."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.self = LFVilaTextSelfAttention(config)
        self.output = LFVilaTextResidual(config, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        source: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Map `(B, L, D)` to the same shape; arguments as in `LFVilaTextSelfAttention`."""
        attended, _ = self.self(hidden_states, attention_mask, source, **kwargs)
        return self.output(attended, hidden_states)


class LFVilaTextIntermediate(nn.Module):
    """Linear and activation: the first half of BERT's feed-forward network."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(B, L, D)` to `(B, L, intermediate)`."""
        return self.act(self.dense(hidden_states))


class LFVilaTextLayer(GradientCheckpointingLayer):
    """Layer of BERT (post-norm)."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.attention = LFVilaTextAttention(config)
        self.intermediate = LFVilaTextIntermediate(config)
        self.output = LFVilaTextResidual(config, config.intermediate_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Map `(B, L, D)` to the same shape."""
        hidden_states = self.attention(hidden_states, attention_mask, **kwargs)
        return self.output(self.intermediate(hidden_states), hidden_states)


def run_layers(
    layers: nn.ModuleList,
    config: LFVilaTextConfig,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    keep_columns: bool,
    **kwargs: Any,
) -> torch.Tensor:
    """Run layers one after another, without the columns that are padding in every row.

    Sentences are padded to a fixed length L, of which a batch seldom uses half. Columns that no row uses are dropped
    before the first layer and come back as zeros after the last. Positions are already added to the states, so they
    do not change.

    Args:
        layers: `LFVilaTextLayer`s.
        config: Their configuration.
        hidden_states: `(B, L, D)`.
        attention_mask: `(B, L)`, 1 for real tokens.
        keep_columns: Whether to run on all L columns, for callers that want the states or attention weights of layers.
        **kwargs: Passed to the attention backend.

    Returns:
        `(B, L, D)`; padding is 0 unless `pool_padded_sentences`, which reads padding and keeps all columns.
    """
    shape = hidden_states.shape
    keep_columns = keep_columns or config.pool_padded_sentences
    if not keep_columns:
        # Columns with a real token in some row. The first two ([CLS] and [SEP] of the shortest sentence) always stay.
        # The check asserts that for `torch.compile` and `torch.export`, which do not see the mask's values.
        column = torch.arange(shape[1], device=attention_mask.device)
        used = (attention_mask.any(0) | (column < 2)).nonzero()[:, 0]  # (l,)
        torch._check(used.shape[0] >= min(2, shape[1]))
        hidden_states, attention_mask = hidden_states.index_select(1, used), attention_mask.index_select(1, used)
    mask = padding_mask(config, hidden_states, attention_mask)
    for layer in layers:
        hidden_states = layer(hidden_states, mask, **kwargs)
    if not config.pool_padded_sentences:
        hidden_states = hidden_states.masked_fill(attention_mask[..., None] == 0, 0.0)
    return hidden_states if keep_columns else hidden_states.new_zeros(shape).index_copy(1, used, hidden_states)


# -- text tower ------------------------------------------------------------------------------------------------------


def _rows(embedding: nn.Embedding) -> int:
    """Count the rows of an embedding.

    An adapter around an embedding has its weight alone, and sharded weights have no rows before a call.
    """
    return getattr(embedding, "num_embeddings", None) or len(embedding.weight)


class LFVilaTextEmbeddings(nn.Module):
    """Embeddings of one sentence as in BERT: words, positions that restart per sentence, token type 0."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None) -> torch.Tensor:
        """Embed the tokens of sentences.

        Args:
            input_ids: Token ids, `(B*M, L)`.
            inputs_embeds: Word vectors in place of the ids, `(B*M, L, D)`.

        Returns:
            `(B*M, L, D)`.

        Raises:
            ValueError: A sentence has more tokens than there are position embeddings.
        """
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if words.shape[1] > _rows(self.position_embeddings):
            raise ValueError(
                f"the sentences have {words.shape[1]} tokens, the model has {_rows(self.position_embeddings)} "
                f"positions (text_config.max_position_embeddings); shorten the sentences"
            )
        places = torch.arange(words.shape[1], device=words.device)
        # Call the embeddings instead of reading their weight: adapters and offloaded weights would break otherwise.
        fixed = self.position_embeddings(places), self.token_type_embeddings(places[:1] * 0)  # (L, D), (1, D)
        return self.dropout(self.LayerNorm(words + fixed[0] + fixed[1]))


class LFVilaParagraphEmbeddings(nn.Module):
    """Embeddings of position (0 to M*L - 1) and sentence, added to the tokens of a paragraph, then LayerNorm."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segment_embeddings = nn.Embedding(config.max_sentences, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, sentence_states: torch.Tensor) -> torch.Tensor:
        """Map `(B, M, L, D)` to `(B, M*L, D)`.

        Raises:
            ValueError: There are more sentences than segment embeddings, or more tokens than position embeddings.
        """
        sentences, tokens = sentence_states.shape[1:3]
        if sentences > _rows(self.segment_embeddings):
            raise ValueError(
                f"the paragraph has {sentences} sentences, the model has {_rows(self.segment_embeddings)} "
                f"segment embeddings (text_config.max_sentences); pass fewer sentences"
            )
        if sentences * tokens > _rows(self.position_embeddings):
            raise ValueError(
                f"{sentences} sentences of {tokens} tokens need {sentences * tokens} positions, the model has "
                f"{_rows(self.position_embeddings)} (text_config.max_position_embeddings); pass fewer or shorter "
                f"sentences"
            )
        places = torch.arange(sentences * tokens, device=sentence_states.device).view(sentences, tokens)
        # Call the embeddings instead of reading their weight: adapters and offloaded weights would break otherwise.
        learned = self.position_embeddings(places) + self.segment_embeddings(places[:, :1] // tokens)  # (M, L, D)
        return self.dropout(self.LayerNorm((sentence_states + learned).flatten(1, 2)))


class LFVilaTextModel(LFVilaPreTrainedModel):
    """Text tower: sentence layers, then paragraph layers."""

    config: LFVilaTextConfig  # type: ignore[assignment]  # a tower's own
    config_class = LFVilaTextConfig
    base_model_prefix = "text_model"
    input_modalities = ["text"]
    _supports_flash_attn = True
    _supports_flex_attn = True
    _can_record_outputs = {
        "hidden_states": LFVilaTextLayer,
        "attentions": OutputRecorder(LFVilaTextSelfAttention, index=1),
    }

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__(config)
        self.embeddings = LFVilaTextEmbeddings(config)
        self.sentence_layers = nn.ModuleList(LFVilaTextLayer(config) for _ in range(config.num_sentence_layers))
        self.paragraph_embeddings = LFVilaParagraphEmbeddings(config)
        self.paragraph_layers = nn.ModuleList(LFVilaTextLayer(config) for _ in range(config.num_paragraph_layers))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:  # type: ignore[override]  # words only
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value

    def encode_sentences(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Encode each sentence alone.

        Args:
            input_ids: `(B, M, L)`, or `None` with `inputs_embeds`.
            attention_mask: `(B, M, L)`, 1 for real tokens.
            inputs_embeds: Word vectors in place of the ids, `(B, M, L, D)`.
            **kwargs: Options of the backend.

        Returns:
            `(B, M, L, D)`.
        """
        batch = attention_mask.shape[0]
        hidden = self.embeddings(
            None if input_ids is None else input_ids.flatten(0, 1),
            None if inputs_embeds is None else inputs_embeds.flatten(0, 1),
        )  # (B*M, L, D)
        mask, keep_columns = attention_mask.flatten(0, 1), self.records_layers(kwargs)
        hidden = run_layers(self.sentence_layers, self.config, hidden, mask, keep_columns, **kwargs)
        return hidden.unflatten(0, (batch, -1))

    def encode_paragraph(
        self, sentence_states: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode the paragraph.

        Args:
            sentence_states: `(B, M, L, D)`, see `encode_sentences`.
            attention_mask: `(B, M, L)`, 1 for real tokens.
            **kwargs: Options of the backend.

        Returns:
            `(B, 1 + M*L, D)`, paragraph token first, and its mask `(B, 1 + M*L)`.
        """
        hidden = self.paragraph_embeddings(sentence_states)  # (B, M*L, D)
        # The paragraph token starts as the mean [CLS] state after segment and position embeddings are added.
        first = hidden.unflatten(1, sentence_states.shape[1:3])[:, :, 0]  # (B, M, D)
        if self.config.pool_padded_sentences:
            paragraph = first.mean(1, keepdim=True)  # (B, 1, D)
        else:
            real = attention_mask.any(-1)[..., None].to(first.dtype)  # (B, M, 1)
            paragraph = (first * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)  # (B, 1, D)
        hidden = torch.cat([paragraph, hidden], dim=1)  # (B, 1 + M*L, D)
        tokens = attention_mask.flatten(1)  # (B, M*L)
        full_mask = torch.cat([tokens.new_ones((tokens.shape[0], 1)), tokens], dim=1)  # (B, 1 + M*L)
        keep_columns = self.records_layers(kwargs)
        return run_layers(self.paragraph_layers, self.config, hidden, full_mask, keep_columns, **kwargs), full_mask

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> LFVilaTextModelOutput:
        """Encode paragraphs.

        Args:
            input_ids: `(B, M, L)`; `(B, L)` is taken as one sentence per paragraph.
            attention_mask: Same shape, 1 for real tokens. Defaults to all ones.
            inputs_embeds: Word vectors with a last axis D, in place of `input_ids`.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and options of the backend.

        Raises:
            ValueError: Both or neither of ids and vectors are given, shapes do not fit, or a paragraph is too long.
        """
        kwargs = backend_options(kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            given = "both" if input_ids is not None else "neither"
            raise ValueError(f"exactly one of input_ids and inputs_embeds is expected, got {given}")
        if input_ids is not None:
            shape, device = input_ids.shape, input_ids.device
        else:
            shape, device = inputs_embeds.shape[:-1], inputs_embeds.device  # type: ignore[union-attr]  # given here
        if len(shape) not in (2, 3) or 0 in shape:
            raise ValueError(f"input_ids must be (B, M, L) or (B, L), none of them 0, got {tuple(shape)}")
        if inputs_embeds is not None and inputs_embeds.shape[-1] != self.config.hidden_size:
            raise ValueError(
                f"inputs_embeds must be {self.config.hidden_size} wide (text_config.hidden_size), "
                f"got {tuple(inputs_embeds.shape)}"
            )
        if attention_mask is None:
            attention_mask = torch.ones(shape, dtype=torch.long, device=device)
        if attention_mask.shape != shape:
            raise ValueError(f"attention_mask {tuple(attention_mask.shape)} must have the shape {tuple(shape)}")
        if len(shape) == 2:
            attention_mask = attention_mask[:, None]
            input_ids = None if input_ids is None else input_ids[:, None]
            inputs_embeds = None if inputs_embeds is None else inputs_embeds[:, None]
        sentences = self.encode_sentences(input_ids, attention_mask, inputs_embeds, **kwargs)  # (B, M, L, D)
        hidden, full_mask = self.encode_paragraph(sentences, attention_mask, **kwargs)  # (B, 1 + M*L, D)
        return LFVilaTextModelOutput(
            last_hidden_state=hidden,
            pooler_output=hidden[:, 0],
            sentence_hidden_state=sentences,
            attention_mask=full_mask,
            sentence_mask=attention_mask.any(-1).long(),
        )


# -- cross-modal encoder ---------------------------------------------------------------------------------------------


def resize_temporal_positions(positions: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Interpolate positions of T frames `(T, D)` to another T.

    Linear with both ends fixed, because the first and last sampled frame are those of the video at any T. Returns the
    same tensor for the same T.
    """
    if len(positions) == num_frames:
        return positions
    line = positions.T.to(interpolation_dtype(positions))[None]  # (1, D, T)
    resized = F.interpolate(line, size=num_frames, mode="linear", align_corners=True)
    return resized[0].T.contiguous().to(positions.dtype)


def resize_spatial_positions(positions: torch.Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> torch.Tensor:
    """Interpolate positions of a frame's tokens bicubically.

    Args:
        positions: `(P, D)`.
        grid: Rows and columns of the P tokens.
        new_grid: Rows and columns of the result.

    Returns:
        `(rows * columns of new_grid, D)`; `positions` itself if the grids are equal.
    """
    if grid == new_grid:
        return positions
    plane = positions.T.to(interpolation_dtype(positions)).unflatten(1, grid)[None]  # (1, D, rows, columns)
    resized = F.interpolate(plane, size=new_grid, mode="bicubic")
    return resized[0].flatten(1).T.contiguous().to(positions.dtype)


class LFVilaVideoTokenEmbeddings(nn.Module):
    """Embeddings of place (P) and time (T), added to the video tokens, then LayerNorm."""

    def __init__(self, config: LFVilaConfig) -> None:
        super().__init__()
        video = config.video_config
        self.spatial_position_embeddings = nn.Parameter(torch.zeros(video.num_frame_tokens, config.hidden_size))
        self.temporal_position_embeddings = nn.Parameter(torch.zeros(video.num_frames, config.hidden_size))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.video_position_layer_norm_eps)

    def resize_video(self, old: LFVilaVideoConfig, new: LFVilaVideoConfig) -> None:
        """Fit the positions to T and P of `new`; called by `LFVilaPreTrainedModel.set_num_frames` and its like."""
        temporal, spatial = self.temporal_position_embeddings, self.spatial_position_embeddings
        self.temporal_position_embeddings = resized_parameter(
            temporal, resize_temporal_positions(temporal, new.num_frames)
        )
        self.spatial_position_embeddings = resized_parameter(
            spatial, resize_spatial_positions(spatial, old.token_grid, new.token_grid)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map `(B, T, P, D)` to `(B, T*P, D)`.

        Raises:
            ValueError: T or P differ from the numbers of position embeddings.
        """
        frames, places = len(self.temporal_position_embeddings), len(self.spatial_position_embeddings)
        if tuple(tokens.shape[1:3]) != (frames, places):
            raise ValueError(
                f"the video has {tokens.shape[1]} frames of {tokens.shape[2]} tokens, the cross-modal encoder has "
                f"positions for {frames} frames of {places} tokens (video_config.num_frames and image_size); call "
                f"set_num_frames or set_image_size first"
            )
        positions = self.temporal_position_embeddings[:, None] + self.spatial_position_embeddings  # (T, P, D)
        return self.norm((tokens + positions).flatten(1, 2))


class LFVilaCoAttentionLayer(GradientCheckpointingLayer):
    """Layer of two streams: each attends to itself, then to the other's input, then feeds forward."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.text_layer = LFVilaTextLayer(config)
        self.video_layer = LFVilaTextLayer(config)
        self.text_to_video = LFVilaTextAttention(config)
        self.video_to_text = LFVilaTextAttention(config)

    def forward(
        self, text: torch.Tensor, video: torch.Tensor, text_mask: torch.Tensor | None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map the streams `(B, 1 + M*L, D)` and `(B, T*P, D)` to the same shapes."""
        new_text = self.text_layer.attention(text, text_mask, **kwargs)
        new_text = self.text_to_video(new_text, None, video, **kwargs)
        new_video = self.video_layer.attention(video, None, **kwargs)
        new_video = self.video_to_text(new_video, text_mask, text, **kwargs)
        new_text = self.text_layer.output(self.text_layer.intermediate(new_text), new_text)
        new_video = self.video_layer.output(self.video_layer.intermediate(new_video), new_video)
        return new_text, new_video


class LFVilaPooler(nn.Module):
    """Linear and tanh on the first token."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(B, L, D)` to `(B, D)`."""
        return torch.tanh(self.dense(hidden_states[:, 0]))


class LFVilaCrossModalEncoder(LFVilaPreTrainedModel):
    """Cross-modal encoder: BERT's upper layers over one merged sequence, or two co-attending streams."""

    base_model_prefix = "cross_modal_encoder"
    _can_record_outputs = {
        "hidden_states": [LFVilaTextLayer, LFVilaCoAttentionLayer],
        "attentions": OutputRecorder(LFVilaTextSelfAttention, index=1),
    }

    def __init__(self, config: LFVilaConfig) -> None:
        super().__init__(config)
        text = config.text_config
        if text.num_cross_modal_layers == 0:
            raise ValueError("a cross-modal encoder needs text_config.num_cross_modal_layers > 0, got 0")
        layer = {"merged": LFVilaTextLayer, "co_attention": LFVilaCoAttentionLayer}[config.cross_modal_fusion]
        self.video_embeddings = LFVilaVideoTokenEmbeddings(config)
        self.layers = nn.ModuleList(layer(text) for _ in range(text.num_cross_modal_layers))
        self.pooler = LFVilaPooler(text)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the weights of a module."""
        super()._init_weights(module)
        if isinstance(module, LFVilaVideoTokenEmbeddings):
            init.trunc_normal_(module.spatial_position_embeddings, std=0.02)
            init.trunc_normal_(module.temporal_position_embeddings, std=0.02)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, text_states: torch.Tensor, text_mask: torch.Tensor, video_tokens: torch.Tensor, **kwargs: Any
    ) -> LFVilaCrossModalOutput:
        """Fuse text and video tokens.

        Args:
            text_states: Paragraph token and text tokens, `(B, 1 + M*L, D)`.
            text_mask: `(B, 1 + M*L)`, 1 for real tokens.
            video_tokens: `(B, T, P, D)`.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and options of the backend.

        Raises:
            ValueError: T or P differ from the numbers of positions, or the backend cannot mask co-attention.
        """
        kwargs = backend_options(kwargs)
        video = self.video_embeddings(video_tokens)  # (B, T*P, D)
        if self.config.cross_modal_fusion == "merged":
            hidden = torch.cat([text_states, video], dim=1)  # (B, 1 + M*L + T*P, D)
            real = torch.cat([text_mask, text_mask.new_ones(video.shape[:2])], dim=1)  # (B, 1 + M*L + T*P)
            keep_columns = self.records_layers(kwargs)
            hidden = run_layers(self.layers, self.config.text_config, hidden, real, keep_columns, **kwargs)
        else:
            if not takes_additive_mask(self.config.text_config):
                # Other backends need masks with as many queries as keys, but here video tokens attend to text tokens.
                raise ValueError(
                    f'cross_modal_fusion="co_attention" needs attn_implementation "eager" or "sdpa" for the text side, '
                    f"got {self.config.text_config._attn_implementation!r}"
                )
            mask = padding_mask(self.config.text_config, text_states, text_mask)
            for layer in self.layers:
                text_states, video = layer(text_states, video, mask, **kwargs)
            hidden = torch.cat([text_states, video], dim=1)  # (B, 1 + M*L + T*P, D)
        return LFVilaCrossModalOutput(last_hidden_state=hidden, pooler_output=self.pooler(hidden))
