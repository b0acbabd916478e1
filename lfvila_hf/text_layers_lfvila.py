# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""BERT's layer: attention, feed-forward network, each followed by its residual sum and LayerNorm.

Twenty-four of them make the text tower and the cross-modal encoder (modeling_text_lfvila.py); released
`src/modeling/text_encoder.py` (microsoft/XPretrain, LF-VILA, MIT). Parameter names are BERT's.

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
from .cpu_linear_lfvila import project, project_act
from .modeling_base_lfvila import eager_attention_forward


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
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(B, L, D)` attends to `source` `(B, L', D)`, by default to itself; returns `(B, L, D)` and the weights."""
        source = hidden_states if source is None else source
        query, key, value = (
            project(linear, states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, A, L, d)
            for linear, states in ((self.query, hidden_states), (self.key, source), (self.value, source))
        )
        backend = "eager" if self.always_eager else self.config._attn_implementation
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(backend, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        out, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs)
        return out.reshape(hidden_states.shape).contiguous(), weights


class LFVilaTextResidual(nn.Module):
    """Linear, dropout, residual, LayerNorm: the second half of BERT's attention and of its feed-forward network."""

    def __init__(self, config: LFVilaTextConfig, in_features: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """`(B, L, in)` and `(B, L, D)` to `(B, L, D)`."""
        return self.LayerNorm(self.dropout(project(self.dense, hidden_states)) + residual)


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
        **kwargs: Any,
    ) -> torch.Tensor:
        """`(B, L, D)` to the same shape; see `LFVilaTextSelfAttention`."""
        attended, _ = self.self(hidden_states, attention_mask, source, **kwargs)
        return self.output(attended, hidden_states)


class LFVilaTextIntermediate(nn.Module):
    """Linear and activation."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, L, D)` to `(B, L, intermediate)`."""
        return project_act(self.dense, self.act, hidden_states)


class LFVilaTextLayer(GradientCheckpointingLayer):
    """BERT's layer (post-norm), under BERT's parameter names."""

    def __init__(self, config: LFVilaTextConfig) -> None:
        super().__init__()
        self.attention = LFVilaTextAttention(config)
        self.intermediate = LFVilaTextIntermediate(config)
        self.output = LFVilaTextResidual(config, config.intermediate_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """`(B, L, D)` to the same shape."""
        hidden_states = self.attention(hidden_states, attention_mask, **kwargs)
        return self.output(self.intermediate(hidden_states), hidden_states)


__all__ = ["LFVilaTextAttention", "LFVilaTextLayer", "LFVilaTextSelfAttention"]
