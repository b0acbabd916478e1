# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Statistics of a corpus, counted from its Parquet files, beside the published figures.

All values are counted as whole numbers (tenths of a second, words, clips): memory is bounded by the number of different
values, not by the corpus, and quantiles are exact to the width of a bin. Plots need matplotlib.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .output_folders import read_rows
from .text import count_words

PUBLISHED = {"clip seconds": 13.4, "clip words": 32.5}
"""Means over all clips of HD-VILA-100M, as its authors give them, not only over clips in rows."""

MAX_CATEGORIES = 1000
COLUMNS = ("video_id", "category", "starts", "ends", "texts", "num_words", "seconds")
BARS = 60
MAX_PLOTTED_CATEGORIES = 15


@dataclass
class Distribution:
    """Histogram of a quantity.

    Args:
        name: The quantity, with its unit.
        width: Width of a bin, in that unit.
    """

    name: str
    width: float
    counts: Counter[int] = field(default_factory=Counter)

    def add(self, value: float) -> None:
        """Count a value in its bin."""
        self.counts[math.floor(value / self.width + 1e-9)] += 1

    @property
    def total(self) -> int:
        """Return the number of values."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """Return the mean; values count as the middle of their bin unless the width is 1."""
        shift = self.width / 2 if self.width != 1 else 0.0
        return sum(key * self.width * count for key, count in self.counts.items()) / max(self.total, 1) + shift

    def quantile(self, part: float) -> float:
        """Return the value below which a share lies, as the lower end of its bin; 0 without values."""
        seen = 0
        for key in sorted(self.counts):
            seen += self.counts[key]
            if seen >= part * self.total:
                return key * self.width
        return 0.0


@dataclass
class CorpusStatistics:
    """Statistics of a corpus.

    Attributes:
        rows: Number of rows per split.
        videos: Number of source videos per split.
        categories: Number of rows per category; "" for rows without one.
        distributions: By name, in the order of the table.
        source: Means over all eligible clips of the input, from the manifest; empty without a manifest.
    """

    rows: Counter[str] = field(default_factory=Counter)
    videos: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    distributions: dict[str, Distribution] = field(default_factory=dict)
    source: dict[str, float] = field(default_factory=dict)

    def table(self) -> str:
        """Format the figures as lines of text."""
        lines = [f"{split:<22}{self.rows[split]:>12,} rows{self.videos[split]:>12,} videos" for split in self.rows]
        head = f"{'':<22}" + "".join(
            f"{name:>10}" for name in ("mean", "p5", "p50", "p95", "p99", "input", "published")
        )
        lines += ["", head]
        for name, one in self.distributions.items():
            figures = [one.mean, *(one.quantile(part) for part in (0.05, 0.5, 0.95, 0.99))]
            cells = [f"{figure:>10,.1f}" for figure in figures]
            cells += [f"{known[name]:>10,.1f}" if name in known else f"{'-':>10}" for known in (self.source, PUBLISHED)]
            lines.append(f"{name:<22}" + "".join(cells))
        if any(self.categories):
            total = sum(self.categories.values())
            lines += ["", "categories of rows"]
            for name, count in self.categories.most_common(20):
                lines.append(f"  {name or '(none)':<20}{count:>12,}{100 * count / total:>8.1f} %")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: means, quantiles and histograms."""
        figures = {}
        for name, one in self.distributions.items():
            figures[name] = {
                "count": one.total,
                "mean": one.mean,
                "quantiles": {str(part): one.quantile(part) for part in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)},
                "bin": one.width,
                "histogram": {f"{key * one.width:g}": one.counts[key] for key in sorted(one.counts)},
            }
        return {
            "rows": dict(self.rows),
            "videos": dict(self.videos),
            "categories": dict(self.categories.most_common()),
            "figures": figures,
            "source": self.source,
            "published": PUBLISHED,
        }


def corpus_statistics(corpus: str | os.PathLike[str]) -> CorpusStatistics:
    """Count the rows, videos, clips and words of a corpus.

    Raises:
        ValueError: If there is no corpus, or it has no row.
    """
    found = CorpusStatistics()
    for name, width in {
        "clips per row": 1,
        "rows per video": 1,
        "row seconds": 1,
        "row words": 1,
        "clip seconds": 0.1,
        "clip words": 1,
        "gap seconds": 0.1,
    }.items():
        found.distributions[name] = Distribution(name, width)
    add = {name: one.add for name, one in found.distributions.items()}
    video, of_video = "", 0
    for split, row in read_rows(corpus, COLUMNS):
        found.rows[split] += 1
        category = row["category"] or ""
        if category in found.categories or len(found.categories) < MAX_CATEGORIES:
            found.categories[category] += 1
        else:
            found.categories["(others)"] += 1
        if row["video_id"] != video:
            found.videos[split] += 1
            if of_video:
                add["rows per video"](of_video)
            video, of_video = row["video_id"], 0
        of_video += 1
        add["clips per row"](len(row["starts"]))
        add["row seconds"](row["seconds"])
        add["row words"](row["num_words"])
        for start, end, text in zip(row["starts"], row["ends"], row["texts"], strict=True):
            add["clip seconds"](end - start)
            add["clip words"](count_words(text))
        for end, start in zip(row["ends"], row["starts"][1:], strict=False):
            add["gap seconds"](start - end)
    if not found.rows:
        raise ValueError(f"the corpus in {os.fspath(corpus)} has no row")
    add["rows per video"](of_video)
    found.source = _source_figures(Path(corpus) / "manifest.json")
    return found


def plot_statistics(statistics: CorpusStatistics, folder: str | os.PathLike[str]) -> list[Path]:
    """Plot one histogram per quantity, and the categories if rows have any.

    Args:
        statistics: Statistics of a corpus.
        folder: Output folder; made if missing.

    Returns:
        The PNG files.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'lfvila_hf[plots]'") from error

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, one in statistics.distributions.items():
        if not one.total:
            continue
        low, high = one.quantile(0.0), one.quantile(0.99) + one.width
        # Bars of whole bins: a bar that no value can fall into would look like a gap.
        width = one.width * max(round((high - low) / one.width / BARS), 1)
        heights: dict[int, int] = {}
        for key, count in one.counts.items():
            if key * one.width <= high:
                place = int((key * one.width - low) / width + 1e-9)
                heights[place] = heights.get(place, 0) + count
        figure = Figure(figsize=(5.0, 3.2), layout="constrained")
        axis = figure.subplots()
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
        names, counts = zip(*statistics.categories.most_common(MAX_PLOTTED_CATEGORIES)[::-1], strict=True)
        figure = Figure(figsize=(5.0, 0.8 + 0.25 * len(names)), layout="constrained")
        axis = figure.subplots()
        axis.barh([name or "(none)" for name in names], counts)
        axis.set(xlabel="rows", title="categories")
        axis.grid(alpha=0.3, axis="x")
        written.append(target / "categories.png")
        figure.savefig(written[-1], dpi=130)
    return written


def _source_figures(manifest: Path) -> dict[str, float]:
    if not manifest.is_file():
        return {}
    try:
        source = json.loads(manifest.read_text(encoding="utf-8")).get("source", {})
    except (ValueError, AttributeError):
        raise ValueError(f"{manifest} is damaged, build the corpus again") from None
    names = {"clip seconds": "seconds_per_clip", "clip words": "words_per_clip"}
    return {ours: source[theirs] for ours, theirs in names.items() if source.get(theirs) is not None}
