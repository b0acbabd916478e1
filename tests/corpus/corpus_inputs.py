"""Small made-up inputs of a corpus build, and builds of them, for the tests of this folder."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lfvila_hf.corpus.building import BuildResult, build_corpus
from lfvila_hf.corpus.engines import LocalEngine
from lfvila_hf.corpus.inputs import clock
from lfvila_hf.corpus.plan import BuildParameters

WORDS = "red green blue round square small large old new slow quick bread water horse river stone paper window".split()


def sentence(seed: str, words: int = 12) -> str:
    """A sentence that depends on the seed alone; two of them share few 5-grams."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + str(draw.randrange(50)) for _ in range(words)) + "."


def video_row(video_id: str, spans: Iterable[tuple[float, float]], first: int = 0, **fields: Any) -> dict[str, Any]:
    """A metadata row with clips at these seconds, numbered from `first`."""
    clips = [
        {"clip_id": f"{video_id}.{number}.mp4", "span": [clock(round(start * 1000)), clock(round(end * 1000))]}
        for number, (start, end) in enumerate(spans, start=first)
    ]
    return {"video_id": video_id, "url": f"https://example.org/{video_id}", "clip": clips, **fields}


def even_spans(count: int, start: float = 0.0, length: float = 5.0, gap: float = 0.2) -> list[tuple[float, float]]:
    """Seconds of clips of equal length with equal gaps."""
    return [(start + number * (length + gap), start + number * (length + gap) + length) for number in range(count)]


def transcripts_of(rows: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """One transcript per clip."""
    return [
        {"clip_id": clip["clip_id"], "text": sentence(clip["clip_id"])} for row in rows for clip in row.get("clip", [])
    ]


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    """JSON lines; a `bytes` row is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def build(
    folder: Path,
    videos: Sequence[Any],
    transcripts: Sequence[Any] | None = None,
    selection: Sequence[Any] = (),
    parameters: BuildParameters | None = None,
    **options: Any,
) -> BuildResult:
    """Write the inputs below a folder and build `folder/corpus` from them in this process."""
    usable = [row for row in videos if isinstance(row, dict)]
    transcripts = transcripts_of(usable) if transcripts is None else transcripts
    return build_corpus(
        folder / "corpus",
        metadata=[write_lines(folder / "metadata.jsonl", videos)],
        transcripts=[write_lines(folder / "transcripts.jsonl", transcripts)],
        clip_ids=[write_lines(folder / "clip_ids.jsonl", selection)] if selection else (),
        parameters=parameters or BuildParameters(),
        engine=options.pop("engine", LocalEngine(1)),
        **options,
    )


def rows_of(output: Path) -> list[dict[str, Any]]:
    """All rows of a corpus, split by split, with the split as a field."""
    import pyarrow.parquet as parquet

    rows: list[dict[str, Any]] = []
    for path in sorted((output / "data").glob("*.parquet")):
        rows += [{"split": path.name.partition("-")[0], **row} for row in parquet.read_table(path).to_pylist()]
    return rows


def content_of(output: Path) -> dict[str, bytes]:
    """Every file of a corpus that must not depend on how it was built."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in ("problems.jsonl", "provenance.json", ".lock")
    }
