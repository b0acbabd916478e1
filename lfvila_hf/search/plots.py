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
LIGHT = 0.43
"""Share of the colour scale above which black stands out from it more than white does."""


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


def plot_similarity(
    similarity: torch.Tensor, path: str | Path, title: str = "", target: Sequence[int] | None = None, shown: int = 64
) -> Path:
    """Draw the score of every text with every video, and how the right ones lie among the others.

    Args:
        similarity: `(N_text, N_video)`.
        path: file to write; its folder must exist.
        title: heading.
        target: the video of each text; text i belongs to video i if left out.
        shown: texts and videos drawn in the matrix, from the first on; the histogram is of all.

    Raises:
        ValueError: the shape is none of texts and videos, or a target does not exist.
    """
    if similarity.ndim != 2 or 0 in similarity.shape:
        raise ValueError(f"similarity must be (texts, videos), got {tuple(similarity.shape)}")
    texts, videos = similarity.shape
    right = torch.as_tensor(list(range(texts)) if target is None else list(target))
    if len(right) != texts or not ((right >= 0) & (right < videos)).all():
        raise ValueError(f"{texts} texts need as many targets from 0 to {videos - 1}, got {right.tolist()[:8]}")
    values = similarity.detach().cpu().float()
    figure, (matrix, histogram) = _figure(11.0, 4.8, 2)
    image = matrix.imshow(values[:shown, :shown].numpy(), cmap="viridis", interpolation="nearest")
    inside = [(int(video), text) for text, video in enumerate(right[:shown]) if video < shown]
    if len(inside) <= 32 and inside:
        matrix.scatter(*zip(*inside, strict=True), s=14, facecolors="none", edgecolors="white", linewidths=0.8)
    part = "" if max(texts, videos) <= shown else f" (first {min(shown, texts)} of {texts})"
    matrix.set(xlabel="video", ylabel=f"text{part}", title=title)
    figure.colorbar(image, ax=matrix, label="score", shrink=0.85)
    own = values[torch.arange(texts), right]
    others = torch.ones(texts, videos, dtype=torch.bool)
    others[torch.arange(texts), right] = False
    bins = torch.linspace(float(values.min()), float(values.max()) + 1e-6, 41).numpy()
    if others.any():
        histogram.hist(values[others].numpy(), bins=bins, density=True, alpha=0.6, label="other pairs")
    histogram.hist(own.numpy(), bins=bins, density=True, alpha=0.6, label="right pairs")
    first = (values > own[:, None]).sum(1).eq(0).float().mean().item()
    histogram.set(xlabel="score", ylabel="density", title=f"right video first: {first:.1%} of {texts} texts")
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

    Raises:
        ValueError: the numbers of frames or levels do not fit each other.
    """
    frames = len(pictures)
    if len(times) != frames or any(len(one) != frames for one in maps) or len(windows) != len(maps) or not len(maps):
        raise ValueError(
            f"{frames} pictures need as many seconds and maps of as many frames, got {len(times)} and "
            f"{[len(one) for one in maps]} with {len(windows)} windows"
        )
    _figure(1.0, 1.0)  # says what to install where matplotlib is missing
    from matplotlib.figure import Figure

    chosen = torch.linspace(0, frames - 1, min(columns, frames)).round().long().tolist()
    height, width = pictures.shape[2:]
    figure = Figure(
        figsize=(1.7 * len(chosen) + 1.2, (1.7 * height / width + 0.1) * (len(maps) + 1) + 0.8), layout="constrained"
    )
    axes = figure.subplots(len(maps) + 1, len(chosen), squeeze=False)
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
    for row in axes:
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    for row, window in enumerate(windows, start=1):
        axes[row][0].set_ylabel(f"level {row - 1}\n{window} frames", fontsize=8)
    figure.colorbar(shown, ax=axes[1:].ravel().tolist(), label="attention received (1 = even)", shrink=0.7)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)
    return Path(path)
