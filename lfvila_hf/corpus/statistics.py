# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""What is in a corpus, counted from its Parquet files, beside the published figures.

Counters of whole numbers (tenths of a second, words, clips) hold everything, so memory is bounded by the number of
different values and not by the corpus, and the quantiles are exact to the width of a bin.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .text import count_words

PUBLISHED = {"clip seconds": 13.4, "clip words": 32.5}
"""Means over the clips of HD-VILA-100M, as its authors give them. They are of all clips, not only of those in rows."""

MAX_CATEGORIES = 1000


@dataclass
class Distribution:
    """Whole-number counts of a measured thing.

    Args:
        name: What it is, with its unit.
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
        """How many values there are."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """The mean; of bins wider than 1 it is that of their middles."""
        shift = self.width / 2 if self.width != 1 else 0.0
        return sum(key * self.width * count for key, count in self.counts.items()) / max(self.total, 1) + shift

    def quantile(self, part: float) -> float:
        """The value below which a part lies, as the lower end of its bin; 0 where there is none."""
        seen = 0
        for key in sorted(self.counts):
            seen += self.counts[key]
            if seen >= part * self.total:
                return key * self.width
        return 0.0


@dataclass
class CorpusStatistics:
    """What `corpus_statistics` found.

    Attributes:
        rows: Rows per split.
        videos: Source videos per split.
        categories: Rows per category; "" where a row has none.
        distributions: By name, in the order of the table.
        source: The same means over all eligible clips of the input, from the manifest; empty without one.
    """

    rows: Counter[str] = field(default_factory=Counter)
    videos: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    distributions: dict[str, Distribution] = field(default_factory=dict)
    source: dict[str, float] = field(default_factory=dict)

    def table(self) -> str:
        """The figures as lines of text."""
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
        """Plain values: means, quantiles and histograms."""
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
    """Count what is in a corpus.

    Raises:
        ValueError: Where there is none, or it has no row.
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
    for split, row in _rows(Path(corpus)):
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


def _rows(corpus: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Split and row, in the order of the corpus."""
    import pyarrow.parquet as parquet

    files = sorted((corpus / "data").glob("*.parquet"))
    if not files:
        raise ValueError(f"there is no corpus in {corpus}: expected Parquet files in its folder data")
    columns = ["video_id", "category", "starts", "ends", "texts", "num_words", "seconds"]
    for path in files:
        for batch in parquet.ParquetFile(path).iter_batches(1000, columns=columns):
            for row in batch.to_pylist():
                yield path.name.partition("-")[0], row


def _source_figures(manifest: Path) -> dict[str, float]:
    if not manifest.is_file():
        return {}
    source = json.loads(manifest.read_text(encoding="utf-8")).get("source", {})
    names = {"clip seconds": "seconds_per_clip", "clip words": "words_per_clip"}
    return {ours: source[theirs] for ours, theirs in names.items() if source.get(theirs) is not None}
