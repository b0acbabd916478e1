# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Parameters of a build (`BuildParameters`), and the plan that its tasks share (`BuildPlan`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .contiguous_clips import JoinRules
from .inputs import Chunk
from .text import TextRules

NearDuplicates = Literal["mark", "leaks", "drop", "off"]
NEAR_DUPLICATES: tuple[NearDuplicates, ...] = ("mark", "leaks", "drop", "off")
SPLITS = ("test", "validation", "train")
"""Splits by rank: of two near-duplicates, the row of the later split is left out."""


@dataclass(frozen=True)
class BuildParameters:
    """Everything that the rows of a corpus depend on, except the input.

    Args:
        join: Rules for joining clips into long videos.
        text: Checks that a transcript must pass.
        validation: Share of the videos in the validation split.
        test: Share of the videos in the test split.
        split_seed: Seed of the draw that puts videos into splits.
        near_duplicates: Treatment of rows that nearly repeat an earlier one (test comes before validation, validation
            before training). `"mark"` names the earlier one in the column `duplicate_of`; `"leaks"` does so and leaves
            out those that repeat a row of another split; `"drop"` leaves out all of them; `"off"` does not search.
        similarity: Jaccard similarity of word 5-grams from which two paragraphs are near-duplicates.
        duration_tolerance: Seconds by which a span may end after the duration that the metadata states.
        rows_per_file: Rows of one Parquet file.
    """

    join: JoinRules = field(default_factory=JoinRules)
    text: TextRules = field(default_factory=TextRules)
    validation: float = 0.005
    test: float = 0.005
    split_seed: int = 0
    near_duplicates: NearDuplicates = "leaks"
    similarity: float = 0.8
    duration_tolerance: float = 0.5
    rows_per_file: int = 20_000

    def __post_init__(self) -> None:
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise ValueError(
                f"validation and test must be 0 or more and below 1 together, got {self.validation} and {self.test}"
            )
        if self.near_duplicates not in NEAR_DUPLICATES:
            raise ValueError(f"near_duplicates must be one of {', '.join(NEAR_DUPLICATES)}, got {self.near_duplicates}")
        if not 0.5 <= self.similarity <= 1:
            raise ValueError(
                f"similarity must lie in 0.5 to 1 (below, too many pairs are missed), got {self.similarity}"
            )
        if not 0 <= self.duration_tolerance < 1e6:
            raise ValueError(f"duration_tolerance must be 0 seconds or more, got {self.duration_tolerance}")
        if self.rows_per_file < 1:
            raise ValueError(f"rows_per_file must be at least 1, got {self.rows_per_file}")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the manifest."""
        return asdict(self)


@dataclass(frozen=True)
class BuildPlan:
    """Plan that every task of a build is given.

    Attributes:
        work: Absolute path of the folder of intermediate files; every machine of a cluster must see it.
        output: Absolute path of the folder of the new corpus.
        chunks: The input.
        chunk_bytes: Bytes of input that a task holds at once.
        buckets: Number of partitions of the videos, by ranges of `inputs.video_key`.
        band_ranges: Number of partitions of the band hashes of `near_duplicates`.
        parameters: Parameters of the build.
        selects: Take the rows of the published clip ids.
        pieces: Number of files that `scatter` made of each chunk; known after that stage.
    """

    work: str
    output: str
    chunks: tuple[Chunk, ...]
    chunk_bytes: int
    buckets: int
    band_ranges: int
    parameters: BuildParameters
    selects: bool
    pieces: tuple[int, ...] = ()

    def path(self, kind: str, number: int, ending: str = "parts") -> Path:
        """Return the intermediate file of one task."""
        return Path(self.work) / kind / f"{number:06d}.{ending}"

    def piece(self, chunk: int, number: int) -> Path:
        """Return a file that `scatter` made of a chunk; large compressed files give several."""
        return Path(self.work) / "scattered" / f"{chunk:06d}-{number:06d}.parts"

    def paths(self, kind: str, count: int, ending: str = "parts") -> list[Path]:
        """Return the intermediate files of all tasks of a stage, in order."""
        return [self.path(kind, number, ending) for number in range(count)]


STAGE_FOLDERS = ("scattered", "rows", "ids", "signatures", "bands", "pairs", "finished", "duplicates")
"""Folders below `BuildPlan.work`."""
