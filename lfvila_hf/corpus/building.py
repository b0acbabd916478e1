# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Build of a long-form corpus from metadata and transcripts (LF-VILA, section 3: the LF-VILA-8M data set).

    OUTPUT/
      data/train-00000-of-00042.parquet      rows, for `datasets` (test and validation alike)
      jsonl/train-00000-of-00042.jsonl       the same rows in the released format
      near_duplicates.jsonl                  every row that nearly repeats an earlier one, and its treatment
      manifest.json                          parameters, counts, problems with examples, files with checksums
      problems.jsonl                         file and line of the first problems of each kind
      provenance.json                        input files, engine, versions, seconds

All but the last two depend on the set of input lines and the parameters alone: not on the order of lines, on how they
are spread over files, on the number of workers, nor on the engine. Nothing is written outside OUTPUT. Intermediate
files are in `OUTPUT/.work`, about twice as large as the input, and are removed at the end. A corpus that is replaced
stays until the new one is complete (`output_folders`).

Memory does not grow with the input: the driver holds counts and the list of output files, a task one chunk or one
partition (`chunk_bytes` of input, some 10 times that in memory).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from . import stages
from .engines import Engine, LocalEngine
from .inputs import Chunk, ChunkKind, count_bytes, find_files, plan_chunks
from .near_duplicates import require_rensa
from .output_folders import MANIFEST, NewCorpus, check_inputs, new_corpus
from .plan import SPLITS, STAGE_FOLDERS, BuildParameters, BuildPlan
from .problems import ProblemLog, resolve_places
from .video_rows import GAP_BIN_MS, BuildStats

FORMAT = "lfvila_hf corpus 1"
CHUNK_BYTES = 16 * 2**20
# Partitions of the band hashes per partition of videos: bands take about a tenth of the bytes of the input.
BUCKETS_PER_BAND_RANGE = 8

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class BuildResult:
    """Result of a build.

    Attributes:
        output: Folder of the corpus.
        manifest: Content of `manifest.json`.
        seconds: Wall seconds of each stage.
    """

    output: Path
    manifest: dict[str, Any]
    seconds: dict[str, float]


def build_corpus(
    output: Source,
    *,
    metadata: Sequence[Source],
    transcripts: Sequence[Source] = (),
    clip_ids: Sequence[Source] = (),
    parameters: BuildParameters | None = None,
    engine: Engine | None = None,
    strict: bool = False,
    overwrite: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> BuildResult:
    """Build a long-form corpus.

    Args:
        output: New or empty folder.
        metadata: Files, folders or patterns of HD-VILA-100M metadata (layout: see `inputs`).
        transcripts: The same for transcripts. Clips of the metadata may have their `text` instead.
        clip_ids: The same for the published selection; the rows are then the listed ones.
        parameters: Parameters of the build. Defaults to `BuildParameters()`.
        engine: Runs the tasks. Defaults to this machine, one process per core.
        strict: Make any problem with the input an error.
        overwrite: Replace an existing corpus.
        chunk_bytes: Bytes of input of one task: bounds memory, changes no output.

    Returns:
        Manifest and seconds.

    Raises:
        ValueError: If the output folder holds other things or is in use, an input is missing or damaged, a parameter is
            out of range, no row comes out, or with `strict` for any problem with the input.
        ImportError: If the search for near-duplicates is on and rensa is not installed.
    """
    found = find_inputs(metadata, transcripts, clip_ids)
    check_inputs(Path(output), [path for files in found.values() for path in files])
    with new_corpus(Path(output), overwrite) as folder:
        return build_into(folder, found, parameters=parameters, engine=engine, strict=strict, chunk_bytes=chunk_bytes)


def find_inputs(
    metadata: Sequence[Source], transcripts: Sequence[Source] = (), clip_ids: Sequence[Source] = ()
) -> dict[ChunkKind, list[str]]:
    """List the files of the three inputs; arguments as in `build_corpus`.

    Raises:
        ValueError: If a name matches no file, or there is no metadata.
    """
    if not metadata:
        raise ValueError("no metadata file was given")
    return {
        "metadata": find_files(metadata),
        "transcripts": find_files(transcripts),
        "selection": find_files(clip_ids),
    }


def build_into(
    folder: NewCorpus,
    inputs: dict[ChunkKind, list[str]],
    *,
    parameters: BuildParameters | None = None,
    engine: Engine | None = None,
    strict: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> BuildResult:
    """Build a corpus of listed input files into the folder of a new corpus; arguments as in `build_corpus`."""
    parameters = parameters or BuildParameters()
    if parameters.near_duplicates != "off":
        require_rensa()
    if chunk_bytes < 1:
        raise ValueError(f"chunk_bytes must be at least 1, got {chunk_bytes}")
    engine_in_use = engine or LocalEngine()
    try:
        return _Build(folder, inputs, parameters, engine_in_use, strict, chunk_bytes).run()
    finally:
        if engine is None:
            engine_in_use.close()


class _Build:
    """One build, stage by stage."""

    def __init__(
        self,
        folder: NewCorpus,
        inputs: dict[ChunkKind, list[str]],
        parameters: BuildParameters,
        engine: Engine,
        strict: bool,
        chunk_bytes: int,
    ) -> None:
        chunks: list[Chunk] = []
        for kind, files in inputs.items():
            chunks += plan_chunks(files, kind, chunk_bytes)
        total = sum(count_bytes(path) for files in inputs.values() for path in files)
        buckets = max(-(-total // chunk_bytes), 1)
        self.plan = BuildPlan(
            work=str(folder.work),
            output=str(folder.new),
            chunk_bytes=chunk_bytes,
            chunks=tuple(chunks),
            buckets=buckets,
            band_ranges=-(-buckets // BUCKETS_PER_BAND_RANGE),
            parameters=parameters,
            selects=bool(inputs["selection"]),
        )
        self.folder = folder
        self.output = folder.new
        self.inputs = inputs
        self.engine = engine
        self.strict = strict
        self.log = ProblemLog()
        self.stats = BuildStats()
        self.first_lines: list[int] = []
        self.seconds: dict[str, float] = {}

    def run(self) -> BuildResult:
        plan = self.plan
        for name in STAGE_FOLDERS:
            (Path(plan.work) / name).mkdir(parents=True)
        for name in ("data", "jsonl"):
            (self.output / name).mkdir()
        self._scatter()
        self._gather()
        if plan.parameters.near_duplicates != "off":
            with self._timed("pair"):
                for _ in self.engine.run(stages.pair, plan, range(plan.band_ranges)):
                    pass
        with self._timed("finish"):
            finished = list(self.engine.run(stages.finish, plan, range(plan.buckets)))
        if not any(report["rows"][split] for report in finished for split in SPLITS):
            raise ValueError(f"no long-form row came out: {self._why_nothing()}")
        with self._timed("write"):
            tasks = stages.plan_files([report["rows"] for report in finished], plan.parameters.rows_per_file)
            files = [file for written in self.engine.run(stages.write_file, plan, tasks) for file in written]
            _concatenate(plan.paths("duplicates", plan.buckets, "jsonl"), self.output / "near_duplicates.jsonl")
        manifest = self._manifest(finished, files)
        self._write_notes()
        # The manifest comes last and in one piece: a folder that has one is a complete corpus.
        _write_json(self.folder.work / MANIFEST, manifest)
        os.replace(self.folder.work / MANIFEST, self.output / MANIFEST)
        return BuildResult(self.folder.output, manifest, self.seconds)

    def _scatter(self) -> None:
        with self._timed("scatter"):
            line, before = 1, None
            pieces: list[int] = []
            for chunk, report in zip(
                self.plan.chunks,
                self.engine.run(stages.scatter, self.plan, range(len(self.plan.chunks))),
                strict=True,
            ):
                line = line if chunk.path == before else 1
                self.first_lines.append(line)
                line, before = line + report["lines"], chunk.path
                pieces.append(report["pieces"])
                self.log.merge(report["problems"])
                self.stats.counts.update(report["counts"])
        self.plan = replace(self.plan, pieces=tuple(pieces))
        self._check_strict()

    def _gather(self) -> None:
        with self._timed("gather"):
            for report in self.engine.run(stages.gather, self.plan, range(self.plan.buckets)):
                self.log.merge(report["problems"])
                self.stats.merge(report["stats"])
        self._check_strict()
        shutil.rmtree(Path(self.plan.work) / "scattered")

    def _check_strict(self) -> None:
        first = self.log.first()
        if not self.strict or first is None:
            return
        kind, (chunk, line), detail = first
        place = f"{self.folder.final(self.plan.chunks[chunk].path)}:{self.first_lines[chunk] + line}"
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.log.counts.items()))
        raise ValueError(f"the input has problems ({counts}); the first is {kind} at {place}: {detail}")

    def _why_nothing(self) -> str:
        counts = self.stats.counts
        problems = ", ".join(f"{count} {kind}" for kind, count in sorted(self.log.counts.items())) or "none"
        return (
            f"{counts['metadata_clips']} clips in the metadata, {counts['eligible_clips']} of them eligible, "
            f"{counts['clips_in_short_runs']} in runs of fewer than {self.plan.parameters.join.min_clips}; "
            f"problems: {problems}"
        )

    def _manifest(self, finished: list[dict[str, Any]], files: list[dict[str, Any]]) -> dict[str, Any]:
        counts = self.stats.counts
        selection = None
        if self.plan.selects:
            names = ("listed", "out_of_order", "also_built")
            selection = {name: counts.pop(f"selected_rows_{name}", 0) for name in names}
        clips = counts["eligible_clips"]
        splits: dict[str, dict[str, float]] = {}
        for split in SPLITS[::-1]:
            of_split: Counter[str] = Counter()
            for report in finished:
                of_split.update(report["counts"][split])
            splits[split] = {name: of_split[name] for name in ("rows", "videos", "clips", "words")}
            splits[split]["clip_seconds"] = of_split["clip_ms"] / 1000
        near: Counter[str] = Counter()
        for report in finished:
            near.update(report["near_duplicates"])
        return {
            "format": FORMAT,
            "parameters": self.plan.parameters.as_dict(),
            "counts": dict(sorted(counts.items())),
            "problems": self.log.summary(),
            "source": {
                "clips": clips,
                "videos": counts["eligible_videos"],
                "seconds_per_clip": round(counts["eligible_ms"] / 1000 / clips, 4) if clips else None,
                "words_per_clip": round(counts["eligible_words"] / clips, 4) if clips else None,
                "gaps": _gap_summary(self.stats.source_gaps),
            },
            "selection": selection,
            "rows": {
                "gaps": _gap_summary(self.stats.row_gaps),
                "clips_per_row": {str(key): count for key, count in sorted(self.stats.clips_per_row.items())},
            },
            "near_duplicates": {name: near[name] for name in ("rows", "across_splits", "left_out")},
            "splits": splits,
            "files": files,
        }

    def _write_notes(self) -> None:
        """Write the two files that differ between builds of equal output."""
        with (self.output / "problems.jsonl").open("w", encoding="utf-8") as file:
            files = [self.folder.final(chunk.path) for chunk in self.plan.chunks]
            file.writelines(f"{json.dumps(row)}\n" for row in resolve_places(self.log, files, self.first_lines))
        provenance = {
            "inputs": {
                kind: [{"path": self.folder.final(path), "bytes": os.path.getsize(path)} for path in files]
                for kind, files in self.inputs.items()
            },
            "engine": self.engine.name,
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            "versions": _versions("lfvila_hf", "numpy", "pyarrow", "rensa"),
        }
        _write_json(self.output / "provenance.json", provenance)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):  # rensa is optional
            found[name] = version(name)
    return found


def _concatenate(parts: Sequence[Path], path: Path) -> None:
    with path.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file)


def _gap_summary(gaps: Counter[int]) -> dict[str, Any]:
    """Summarise gaps between neighbours: quantiles in seconds, to the lower end of a bin of 0.1 s, and histogram."""
    total = sum(gaps.values())
    answer: dict[str, Any] = {"count": total, "bin_seconds": GAP_BIN_MS / 1000}
    seen = 0
    wanted = {"min": 0.0, "p1": 0.01, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    for gap in sorted(gaps):
        seen += gaps[gap]
        for name in [name for name, part in wanted.items() if seen >= part * total]:
            answer[name] = gap / 1000
            del wanted[name]
    answer["histogram"] = {f"{gap / 1000:g}": gaps[gap] for gap in sorted(gaps)}
    return answer


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
