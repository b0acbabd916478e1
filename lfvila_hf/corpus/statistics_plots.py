# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The figures of a corpus as pictures, in the manner of `library.plots`. Needs matplotlib."""

from __future__ import annotations

import os
from pathlib import Path

from lfvila_hf.search.plots import _figure as new_figure

from .statistics import PUBLISHED, CorpusStatistics

BARS = 60
MOST_CATEGORIES = 15


def plot_statistics(statistics: CorpusStatistics, folder: str | os.PathLike[str]) -> list[Path]:
    """Draw one histogram per figure, and the categories where rows have any.

    Args:
        statistics: What to draw.
        folder: Where to write; made if it is not there.

    Returns:
        The PNG files.

    Raises:
        ImportError: Without matplotlib.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, one in statistics.distributions.items():
        if not one.total:
            continue
        low, high = one.quantile(0.0), one.quantile(0.99) + one.width
        # Bars of whole bins, so that none is empty for want of a value that could be in it.
        width = one.width * max(round((high - low) / one.width / BARS), 1)
        heights: dict[int, int] = {}
        for key, count in one.counts.items():
            if key * one.width <= high:
                place = int((key * one.width - low) / width + 1e-9)
                heights[place] = heights.get(place, 0) + count
        figure, (axis,) = new_figure(5.0, 3.2)
        axis.bar([low + place * width for place in heights], list(heights.values()), width=width, align="edge")
        axis.axvline(one.mean, color="black", linewidth=1.2, label=f"mean {one.mean:.1f}")
        if name in PUBLISHED:
            axis.axvline(PUBLISHED[name], color="tab:red", linestyle="--", label=f"published {PUBLISHED[name]:g}")
        axis.set(xlabel=name, ylabel="number", title=f"{name} (99 % of them)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        written.append(target / f"{name.replace(' ', '_')}.png")
        figure.savefig(written[-1], dpi=130)
    if any(statistics.categories):
        names, counts = zip(*statistics.categories.most_common(MOST_CATEGORIES)[::-1], strict=True)
        figure, (axis,) = new_figure(5.0, 0.8 + 0.25 * len(names))
        axis.barh([name or "(none)" for name in names], counts)
        axis.set(xlabel="rows", title="categories")
        axis.grid(alpha=0.3, axis="x")
        written.append(target / "categories.png")
        figure.savefig(written[-1], dpi=130)
    return written
