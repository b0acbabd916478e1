# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""BERT's layer: attention, feed-forward network, each followed by its residual sum and LayerNorm.

Twenty-four of them make the text tower and the cross-modal encoder (modeling_text_lfvila.py); released
`src/modeling/text_encoder.py` (microsoft/XPretrain, LF-VILA, MIT). Parameter names are BERT's.

Sentences are padded to a fixed length, so that half of the tokens or more stand for nothing. With a `TokenPacking`
layers work on real tokens alone; only the products of attention see rows of equal length.

Letters: B rows, L tokens, D width, A attention heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_lfvila import LFVilaTextConfig
from .cpu_linear_lfvila import is_transformed, is_untouched
from .modeling_base_lfvila import eager_attention_forward, padding_mask

MOST_REAL = 0.9
"""Fraction of real tokens above which packing would cost more than it saves."""


class TokenPacking:
    """The way from padded rows `(B, L, D)` to their real tokens in one row `(1, R, D)`, and back.

    Args:
        attention_mask: `(B, L)`, 1 for real tokens.
    """

    def __init__(self, attention_mask: torch.Tensor) -> None:
        self.shape = attention_mask.shape
        self.places = attention_mask.flatten().nonzero()[:, 0]  # (R,)

    @classmethod
    def where_it_pays(cls, attention_mask: torch.Tensor) -> TokenPacking | None:
        """A packing, or `None`.

        How many tokens are real must be known before anything can be computed: on a GPU that would mean to wait for
        it, and no trace can hold it.

        Args:
            attention_mask: `(B, L)`, 1 for real tokens.
        """
        if attention_mask.device.type != "cpu" or torch.compiler.is_compiling():
            return None
        has_values = type(attention_mask) is torch.Tensor and not is_transformed(
            attention_mask
        )  # and those of one sample
        if not has_values:
            return None
        return cls(attention_mask) if attention_mask.float().mean() < MOST_REAL else None

    def pack(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, L, D)` to `(1, R, D)`."""
        return hidden_states.flatten(0, 1).index_select(0, self.places)[None]

    def unpack(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(1, R, D)` to `(B, L, D)`; padding is 0."""
        rows = hidden_states.new_zeros(self.shape.numel(), hidden_states.shape[-1])
        return rows.index_copy(0, self.places, hidden_states[0]).unflatten(0, tuple(self.shape))

    def drop(self, dropout: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        """Dropout of `(1, R, D)` that drops what it would drop of padded rows, so that packing changes no run."""
        draws = not is_untouched(dropout, nn.Dropout) or (dropout.training and dropout.p)
        return self.pack(dropout(self.unpack(hidden_states))) if draws else hidden_states


class LFVilaTextSelfAttention(nn.Module):
    """BERT's attention; keys and values may come from another sequence (co-attention).

    `always_eager` overrules the backend: fused kernels get the gradient of a row that is all padding wrong, because the
    size of the mask swallows the number of tokens in their log-sum-exp.
    """

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.always_eager = False
        self.attention_dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        source: torch.Tensor | None = None,
        packing: TokenPacking | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(B, L, D)` attends to `source` `(B, L', D)`, by default to itself; returns `(B, L, D)` and the weights.

        With `packing`, which goes with no source, states come and go as `(1, R, D)`.
        """
        source = hidden_states if source is None else source
        projected = (
            linear(states) for linear, states in ((self.query, hidden_states), (self.key, source), (self.value, source))
        )
        query, key, value = (
            (states if packing is None else packing.unpack(states)).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for states in projected
        )  # each (B, A, L, d)
        backend = "eager" if self.always_eager else self.config._attn_implementation
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        out, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs)
        out = out.flatten(2)  # (B, L, D)
        return (out if packing is None else packing.pack(out)).contiguous(), weights


class LFVilaTextResidual(nn.Module):
    """Linear, dropout, residual, LayerNorm: the second half of BERT's attention and of its feed-forward network."""

    def __init__(self, config: LFVilaTextConfig, in_features: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden_states: torch.Tensor, residual: torch.Tensor, packing: TokenPacking | None = None
    ) -> torch.Tensor:
        """`(B, L, in)` and `(B, L, D)` to `(B, L, D)`; with `packing`, `(1, R, in)` and `(1, R, D)` to `(1, R, D)`."""
        states = self.dense(hidden_states)
        states = self.dropout(states) if packing is None else packing.drop(self.dropout, states)
        return self.LayerNorm(states + residual)


class LFVilaTextAttention(nn.Module):
    """Attention with its residual; parameter names are BERT's."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.self = LFVilaTextSelfAttention(config)
        self.output = LFVilaTextResidual(config, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        source: torch.Tensor | None = None,
        packing: TokenPacking | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """`(B, L, D)` to the same shape; see `LFVilaTextSelfAttention`."""
        attended, _ = self.self(hidden_states, attention_mask, source, packing, **kwargs)
        return self.output(attended, hidden_states, packing)


class LFVilaTextIntermediate(nn.Module):
    """Linear and activation."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, L, D)` to `(B, L, intermediate)`."""
        return self.act(self.dense(hidden_states))


class LFVilaTextStates(nn.Module):
    """Hands states on; it is here so that `output_hidden_states` finds those of packed layers in their padded form."""

    def forward(self, before: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """States before and after a layer, `(B, L, D)`; returns the latter."""
        return hidden_states


class LFVilaTextLayer(GradientCheckpointingLayer):
    """BERT's layer (post-norm), under BERT's parameter names."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.attention = LFVilaTextAttention(config)
        self.intermediate = LFVilaTextIntermediate(config)
        self.output = LFVilaTextResidual(config, config.intermediate_size)
        self.states = LFVilaTextStates()

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        packing: TokenPacking | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """`(B, L, D)`, with `packing` `(1, R, D)`, to the same shape."""
        hidden_states = self.attention(hidden_states, attention_mask, packing=packing, **kwargs)
        return self.output(self.intermediate(hidden_states), hidden_states, packing)


def draws_elsewhere(layers: nn.ModuleList) -> bool:
    """Whether layers hold active dropout that does not go through `TokenPacking.drop`, as adapters bring it.

    What it dropped would depend on the packing, and so on what else is in the batch. Modules of PyTorch are known;
    functions and modules of other kinds that draw are not.
    """
    own = {id(module.dropout) for module in layers.modules() if isinstance(module, LFVilaTextResidual)}
    kinds = nn.modules.dropout._DropoutNd
    return any(
        isinstance(module, kinds) and module.training and module.p and id(module) not in own
        for module in layers.modules()
    )


def read_tokens(
    layers: nn.ModuleList,
    config: LFVilaTextConfig,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor,
    keep_states: bool,
    **kwargs: Any,
) -> torch.Tensor:
    """Layers one after another, on real tokens alone where that pays.

    Args:
        layers: `LFVilaTextLayer`s.
        config: theirs.
        hidden_states: `(B, L, D)`.
        attention_mask: `(B, L)`, 1 for real tokens.
        keep_states: whether the states between layers are to be recorded.
        **kwargs: passed to the attention backend.

    Returns:
        `(B, L, D)`; padding is 0 but with `pool_padded_sentences`.
    """
    mask = padding_mask(config, hidden_states, attention_mask)
    reads_padding = config.pool_padded_sentences
    packing = None if reads_padding else TokenPacking.where_it_pays(attention_mask)
    if packing is not None and draws_elsewhere(layers):
        packing = None
    states = hidden_states
    hidden_states = hidden_states if packing is None else packing.pack(hidden_states)
    layer: Any
    for layer in layers:
        hidden_states = layer(hidden_states, mask, packing=packing, **kwargs)
        if keep_states:
            states = layer.states(states, hidden_states if packing is None else packing.unpack(hidden_states))
    if packing is not None:
        return packing.unpack(hidden_states)
    return hidden_states if reads_padding else hidden_states.masked_fill(attention_mask[..., None] == 0, 0.0)


__all__ = [
    "LFVilaTextAttention",
    "LFVilaTextLayer",
    "LFVilaTextSelfAttention",
    "LFVilaTextStates",
    "TokenPacking",
    "read_tokens",
]
