# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Pictures of a training run, of alignments, of attention and of an evaluation set, to PNG or SVG by the file's suffix.

Needs matplotlib. Letters: M sentences, K clips, N texts or videos, T frames, H W pixels, h w patch grid.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

TERM_NAMES = {
    "loss": "total (weighted)",
    "global_loss": "global contrastive",
    "mtc_loss": "temporal contrastive (MTC)",
    "mlm_loss": "masked language (MLM)",
    "vtm_loss": "video-text matching (VTM)",
    "span_loss": "answer span",
}
SHOWN = 64
"""Texts and videos of the drawn matrix of similarities."""
LIGHT = 0.43
"""Share of the colour scale above which black stands out from it more than white does."""


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure that draws without a screen, and its axes `(rows, columns)`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'lfvila_hf[plots]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


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
    figure, axes = _figure(5.0 * len(logged), 3.6, columns=len(logged))
    for axis, (title, history) in zip(axes[0], logged.items(), strict=True):
        for name, label in TERM_NAMES.items():
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            if points:
                steps, values = zip(*points, strict=True)
                marker = "o" if len(points) == 1 else ""  # one point makes no line
                axis.plot(steps, values, label=label, linewidth=2.0 if name == "loss" else 1.2, marker=marker)
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
    """
    rows, columns = similarity.shape
    figure, ((axis,),) = _figure(3.6 + 1.3 * columns, 1.2 + 0.62 * rows)
    cosines = similarity.detach().cpu().float().numpy()
    low, high = np.percentile(cosines, (2, 98))  # one outlier must not take the whole scale
    image = axis.imshow(cosines, cmap="viridis", aspect="auto", vmin=low, vmax=max(high, low + 1e-6))
    for colour, width in (("black", 4.0), ("white", 1.8)):  # a ring that stands out from dark and light cells
        axis.scatter(list(chosen), range(rows), s=170, facecolors="none", edgecolors=colour, linewidths=width)
    for row in range(rows):
        for column in range(columns):
            ink = "black" if image.norm(cosines[row, column]) > LIGHT else "white"
            axis.text(column, row - 0.33, f"{cosines[row, column]:.2f}", ha="center", va="center", color=ink)
    axis.set_yticks(range(rows), [textwrap.fill(sentence, 46) for sentence in sentences], fontsize=8)
    spans = [f"{clip_times[i]:.1f}-{clip_times[i + 1]:.1f} s" for i in range(columns)]
    axis.set_xticks(range(columns), spans, fontsize=8)
    axis.set(xlabel="clip", title=title)
    figure.colorbar(image, ax=axis, label="cosine")
    figure.savefig(path, dpi=130)
    return Path(path)


def plot_similarity(similarity: torch.Tensor, path: str | Path, title: str = "") -> Path:
    """Draw the score of every text with every video, and how the right ones, those on the diagonal, lie among them.

    Args:
        similarity: `(N, N)`; the matrix shows the first `SHOWN` texts and videos, the histogram all.
        path: file to write; its folder must exist.
        title: heading.
    """
    count = len(similarity)
    values = similarity.detach().cpu().float()
    figure, ((matrix, histogram),) = _figure(11.0, 4.8, columns=2)
    image = matrix.imshow(values[:SHOWN, :SHOWN].numpy(), cmap="viridis", interpolation="nearest")
    part = "" if count <= SHOWN else f" (first {SHOWN} of {count})"
    matrix.set(xlabel="video", ylabel=f"text{part}", title=title)
    figure.colorbar(image, ax=matrix, label="score", shrink=0.85)
    right = torch.eye(count, dtype=torch.bool)
    own = values[right]
    bins = torch.linspace(float(values.min()), float(values.max()) + 1e-6, 41).numpy()
    if count > 1:
        histogram.hist(values[~right].numpy(), bins=bins, density=True, alpha=0.6, label="other pairs")
    histogram.hist(own.numpy(), bins=bins, density=True, alpha=0.6, label="right pairs")
    first = (values > own[:, None]).sum(1).eq(0).float().mean().item()
    histogram.set(xlabel="score", ylabel="density", title=f"right video first: {first:.1%} of {count} texts")
    histogram.legend(fontsize=8)
    histogram.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    return Path(path)


def plot_attention(
    pictures: torch.Tensor,
    maps: Sequence[torch.Tensor],
    windows: Sequence[int],
    times: Sequence[float],
    path: str | Path,
    columns: int = 8,
    title: str = "",
) -> Path:
    """Draw the attention that places of frames receive, one row of frames per level of the video tower.

    Args:
        pictures: `(T, 3, H, W)` in 0 ... 255.
        maps: `(T, h, w)` per level, as `attention_maps.attention_received` gives them.
        windows: how many frames a window of each level has.
        times: second of each frame.
        path: file to write; its folder must exist.
        columns: frames drawn, evenly spaced.
        title: heading.
    """
    frames = len(pictures)
    chosen = torch.linspace(0, frames - 1, min(columns, frames)).round().long().tolist()
    height, width = pictures.shape[2:]
    tall = (1.7 * height / width + 0.1) * (len(maps) + 1) + 0.8
    figure, axes = _figure(1.7 * len(chosen) + 1.2, tall, len(maps) + 1, len(chosen))
    pixels = pictures.detach().cpu().float().clamp(0, 255).permute(0, 2, 3, 1).numpy() / 255  # (T, H, W, 3)
    most = max(float(one.max()) for one in maps)
    shown: Any = None
    for column, frame in enumerate(chosen):
        axes[0][column].imshow(pixels[frame])
        axes[0][column].set_title(f"{times[frame]:.1f} s", fontsize=8)
        for row, level in enumerate(maps, start=1):
            axis = axes[row][column]
            axis.imshow(pixels[frame].mean(-1), cmap="gray", vmin=0, vmax=1)
            shown = axis.imshow(
                level[frame].numpy(),
                cmap="inferno",
                vmin=0,
                vmax=most,
                alpha=0.65,
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                interpolation="nearest",
            )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for row, window in enumerate(windows, start=1):
        axes[row][0].set_ylabel(f"level {row - 1}\n{window} frames", fontsize=8)
    figure.colorbar(shown, ax=axes[1:].ravel().tolist(), label="attention received (1 = even)", shrink=0.7)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)
    return Path(path)
