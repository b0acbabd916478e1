# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Pictures of a training run and of an alignment, written to PNG or SVG by the file's suffix. Needs matplotlib.

Letters: M sentences, K clips.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

TERM_NAMES = {
    "loss": "total (weighted)",
    "global_loss": "global contrastive",
    "mtc_loss": "temporal contrastive (MTC)",
    "mlm_loss": "masked language (MLM)",
    "vtm_loss": "video-text matching (VTM)",
    "span_loss": "answer span",
}


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure that draws without a screen, and its axes."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'lfvila_hf[plots]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def plot_losses(phases: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path) -> Path:
    """Draw every logged loss term over the steps, one panel per phase.

    Args:
        phases: title to the Trainer's `state.log_history`.
        path: file to write; its folder must exist.

    Raises:
        ValueError: no phase has logged a loss.
    """
    logged = {title: [entry for entry in history if "loss" in entry] for title, history in phases.items()}
    logged = {title: history for title, history in logged.items() if history}
    if not logged:
        raise ValueError(f"none of the phases {sorted(phases)} has logged a loss")
    figure, axes = _figure(5.0 * len(logged), 3.6, len(logged))
    for axis, (title, history) in zip(axes, logged.items(), strict=True):
        for name, label in TERM_NAMES.items():
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            if points:
                steps, values = zip(*points, strict=True)
                axis.plot(steps, values, label=label, linewidth=2.0 if name == "loss" else 1.2)
        axis.set(title=title, xlabel="step", ylabel="loss")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    return Path(path)


def plot_alignment(
    similarity: torch.Tensor,
    sentences: Sequence[str],
    clip_times: Sequence[float],
    chosen: Sequence[int],
    path: str | Path,
    title: str = "",
) -> Path:
    """Draw the cosine of every sentence with every clip, and the clip that the alignment chose for each sentence.

    Args:
        similarity: `(M, K)` cosines.
        sentences: the M sentences.
        clip_times: K + 1 seconds: where each clip starts, and the end of the last one.
        chosen: clip number of every sentence.
        path: file to write; its folder must exist.
        title: heading.

    Raises:
        ValueError: the numbers of sentences, clips and seconds do not fit each other, or a chosen clip does not exist.
    """
    rows, columns = similarity.shape
    if not (len(sentences) == len(chosen) == rows and len(clip_times) == columns + 1):
        raise ValueError(
            f"similarity {tuple(similarity.shape)} needs M sentences, M chosen clips and K + 1 seconds, got "
            f"{len(sentences)}, {len(chosen)} and {len(clip_times)}"
        )
    if not all(0 <= clip < columns for clip in chosen):
        raise ValueError(f"chosen clips must be numbers from 0 to {columns - 1}, got {list(chosen)}")
    figure, (axis,) = _figure(3.6 + 1.3 * columns, 1.2 + 0.62 * rows)
    image = axis.imshow(similarity.detach().cpu().float().numpy(), cmap="viridis", aspect="auto")
    axis.scatter(list(chosen), range(rows), s=170, facecolors="none", edgecolors="white", linewidths=2.2)
    for row in range(rows):
        for column in range(columns):
            axis.text(column, row - 0.33, f"{similarity[row, column]:.2f}", ha="center", va="center", color="white")
    axis.set_yticks(range(rows), [textwrap.fill(sentence, 46) for sentence in sentences], fontsize=8)
    spans = [f"{clip_times[i]:.1f}-{clip_times[i + 1]:.1f} s" for i in range(columns)]
    axis.set_xticks(range(columns), spans, fontsize=8)
    axis.set(xlabel="clip", title=title)
    figure.colorbar(image, ax=axis, label="cosine")
    figure.savefig(path, dpi=130)
    return Path(path)
