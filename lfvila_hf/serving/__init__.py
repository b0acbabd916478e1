# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Embeddings over HTTP: `lfvila-hf serve MODEL`; docs/serving.md is the guide."""

from __future__ import annotations
