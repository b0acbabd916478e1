# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Stages of a build as pure functions of a plan and the number of a task.

1. `scatter`, per chunk of input: parse and check lines, sort their contents by partition of their video.
2. `gather`, per partition: combine what all inputs say about each of its videos, make rows, and hash them.
3. `pair`, per range of band hashes: find near-duplicates.
4. `finish`, per partition: mark or leave out near-duplicates, sort rows by split.
5. `write_file`, per output file: Parquet for work, and the released JSON lines for the loaders of pre-training.

Partitions are ranges of a hash of the video id, and rows are sorted by that hash. So the concatenated partitions are
the same rows in the same order, however many partitions there are and wherever the input was cut. Between stages there
are only files in `BuildPlan.work` and the small dictionaries that the functions return: a stage can run in this
process, in many, or on many machines that share that folder. A task holds one chunk or one partition in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .inputs import (
    RecordProblem,
    parse_json_line,
    read_chunk,
    read_selection,
    read_transcript,
    read_video,
    video_key,
)
from .intermediate_files import read_part, read_parts, split_by_range, write_parts
from .near_duplicates import (
    BAND_DTYPE,
    HASHES,
    PAIR_DTYPE,
    band_records,
    first_duplicates,
    keep_first,
    row_number,
    row_place,
    signatures,
)
from .plan import SPLITS, BuildPlan
from .problems import ProblemLog
from .text import count_words
from .video_rows import BuildStats, Row, VideoFacts, in_row_order, paragraph_of, rows_of_video

ROW_GROUP = 1000

Report = dict[str, Any]
_Buckets = dict[int, dict[str, list[Any]]]


def scatter(plan: BuildPlan, task: int) -> Report:
    """Parse one chunk of input and sort it by partition.

    Returns:
        `lines` in the chunk, `pieces` it was written in, `problems`, `counts`.
    """
    chunk = plan.chunks[task]
    log = ProblemLog()
    counts: Counter[str] = Counter()
    buckets: _Buckets = {}
    number, pieces, held = -1, 0, 0
    add = {"metadata": _scatter_video, "transcripts": _scatter_transcript, "selection": _scatter_selection}[chunk.kind]
    for number, line in enumerate(read_chunk(chunk)):
        if line.isspace():
            continue
        try:
            add(plan, buckets, parse_json_line(line), number, log, counts, task)
        except RecordProblem as problem:
            log.add(problem.kind, problem.detail, (task, number))
        held += len(line)
        if held >= plan.chunk_bytes and chunk.end is None:  # a compressed file is one chunk of any size
            _write_piece(plan, task, pieces, buckets)
            pieces, held = pieces + 1, 0
    _write_piece(plan, task, pieces, buckets)
    return {"lines": number + 1, "pieces": pieces + 1, "problems": log.as_dict(), "counts": dict(counts)}


def gather(plan: BuildPlan, bucket: int) -> Report:
    """Make the rows of one partition, and their hashes for `pair`.

    Returns:
        `rows`, `problems`, `stats`.
    """
    log, stats = ProblemLog(), BuildStats()
    facts = _read_facts(plan, bucket)
    rows: list[Row] = []
    for video_id in in_row_order(facts):
        rows.extend(rows_of_video(video_id, facts.pop(video_id), plan.parameters, plan.selects, log, stats))
    _write_lines(plan.path("rows", bucket, "jsonl"), rows)
    if plan.parameters.near_duplicates != "off":
        ranks = [SPLITS.index(row["split"]) for row in rows]
        numbers = np.array([row_number(rank, bucket, index) for index, rank in enumerate(ranks)], dtype=np.uint64)
        hashes = signatures([paragraph_of(row) for row in rows])
        np.save(plan.path("signatures", bucket, "npy"), hashes)
        np.save(plan.path("ids", bucket, "npy"), np.array([row["id"].encode() for row in rows] or [b""]))
        bands = band_records(hashes, numbers)
        write_parts(plan.path("bands", bucket), split_by_range(bands, bands["hash"], plan.band_ranges))
    return {"rows": len(rows), "problems": log.as_dict(), "stats": stats.as_dict()}


def pair(plan: BuildPlan, part: int) -> Report:
    """Find the near-duplicates among rows that share a band of one range.

    Returns:
        `pairs`: number of rows that have one here.
    """
    records = _read_records(plan.paths("bands", plan.buckets), part, BAND_DTYPE)

    def signatures_of(rows: np.ndarray) -> np.ndarray:
        answer = np.empty((len(rows), HASHES), dtype=np.uint32)
        for place, row in enumerate(rows.tolist()):
            _, bucket, index = row_place(row)
            answer[place] = _mapped(plan.path("signatures", bucket, "npy"))[index]
        return answer

    pairs = first_duplicates(records, signatures_of, plan.parameters.similarity)
    _mapped.cache_clear()
    # Sorted by partition only: `keep_first` sorts within it.
    buckets = np.array([row_place(row)[1] for row in pairs["row"].tolist()], dtype=np.int64)
    pairs = pairs[np.argsort(buckets, kind="stable")]
    places = np.searchsorted(np.sort(buckets), np.arange(plan.buckets + 1))
    parts = [pairs[start:end].tobytes() for start, end in zip(places, places[1:], strict=False)]
    write_parts(plan.path("pairs", part), parts)
    return {"pairs": len(pairs)}


def finish(plan: BuildPlan, bucket: int) -> Report:
    """Mark or leave out the near-duplicates of one partition and sort its rows by split.

    Returns:
        `rows` of each split, `counts` of each split, `near_duplicates`.
    """
    policy = plan.parameters.near_duplicates
    firsts = _first_of_rows(plan, bucket) if policy != "off" else {}
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    videos: dict[str, set[str]] = {split: set() for split in SPLITS}
    duplicates: Counter[str] = Counter()
    marks: list[Row] = []
    for index, row in enumerate(_read_lines(plan.path("rows", bucket, "jsonl"))):
        row["duplicate_of"] = None
        split = row["split"]
        if index in firsts:
            first_split, row["duplicate_of"], similarity = firsts[index]
            leaks = first_split != split
            dropped = policy == "drop" or (policy == "leaks" and leaks)
            duplicates.update(rows=1, across_splits=int(leaks), left_out=int(dropped))
            marks.append(
                {
                    "id": row["id"],
                    "split": split,
                    "duplicate_of": row["duplicate_of"],
                    "split_of_that": first_split,
                    "similarity": round(similarity, 4),
                    "left_out": dropped,
                }
            )
            if dropped:
                continue
        lines[split].append(json.dumps(row, separators=(",", ":")))
        videos[split].add(row["video_id"])
        counts[split].update(
            rows=1,
            clips=len(row["clips"]),
            clip_ms=sum(clip[2] - clip[1] for clip in row["clips"]),
            words=sum(count_words(clip[3]) for clip in row["clips"]),
        )
    for split in SPLITS:
        counts[split]["videos"] = len(videos[split])
    write_parts(plan.path("finished", bucket), ["".join(f"{line}\n" for line in lines[s]).encode() for s in SPLITS])
    _write_lines(plan.path("duplicates", bucket, "jsonl"), marks)
    return {
        "rows": {split: len(lines[split]) for split in SPLITS},
        "counts": {split: dict(counts[split]) for split in SPLITS},
        "near_duplicates": dict(duplicates),
    }


def plan_files(rows: Sequence[dict[str, int]], rows_per_file: int) -> list[dict[str, Any]]:
    """Plan the output files: split, number, and rows of partitions of each.

    Args:
        rows: Rows of each split, per partition.
        rows_per_file: Most rows of a file.

    Returns:
        Dictionaries with `split`, `number`, `of`, and `slices` as lists of partition, first row and number of rows.
        A split without rows has no file; the training split always has one.
    """
    files: list[dict[str, Any]] = []
    for split in SPLITS[::-1]:
        total = sum(bucket[split] for bucket in rows)
        count = max(-(-total // rows_per_file), 1 if split == "train" else 0)
        of_split: list[dict[str, Any]] = [
            {"split": split, "number": number, "of": count, "slices": []} for number in range(count)
        ]
        place = 0
        for bucket, here in enumerate(rows):
            done = 0
            while done < here[split]:
                number = place // rows_per_file
                take = min(here[split] - done, (number + 1) * rows_per_file - place)
                of_split[number]["slices"].append([bucket, done, take])
                done += take
                place += take
        files.extend(of_split)
    return files


def write_file(plan: BuildPlan, file: dict[str, Any]) -> list[dict[str, Any]]:
    """Write one output file in both formats, `data/NAME.parquet` and `jsonl/NAME.jsonl`, with the same rows.

    Returns:
        Path (relative to the corpus), rows, bytes and SHA-256 of each.
    """
    import pyarrow.parquet as parquet

    name = f"{file['split']}-{file['number']:05d}-of-{file['of']:05d}"
    table_path = Path(plan.output) / "data" / f"{name}.parquet"
    lines_path = Path(plan.output) / "jsonl" / f"{name}.jsonl"
    schema = corpus_schema()
    total = 0
    with (
        parquet.ParquetWriter(table_path, schema, compression="zstd") as writer,
        lines_path.open("w", encoding="utf-8", newline="\n") as lines,
    ):
        group: list[dict[str, Any]] = []
        for row in _rows_of(plan, file):
            released = [{"clip_id": clip_id, "text": text} for clip_id, _, _, text in row["clips"]]
            lines.write(json.dumps(released, ensure_ascii=False) + "\n")
            group.append(table_row(row))
            total += 1
            if len(group) == ROW_GROUP:
                writer.write_table(_table(group, schema))
                group = []
        if group or not total:
            writer.write_table(_table(group, schema))
    return [
        {"path": f"{path.parent.name}/{path.name}", "rows": total, "bytes": os.path.getsize(path), "sha256": _sha(path)}
        for path in (table_path, lines_path)
    ]


def corpus_schema() -> Any:
    """Return the pyarrow schema of the Parquet files."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    return pyarrow.schema(
        [
            ("id", text),
            ("video_id", text),
            ("url", text),
            ("category", text),
            ("clip_ids", pyarrow.list_(text)),
            ("starts", pyarrow.list_(number)),
            ("ends", pyarrow.list_(number)),
            ("texts", pyarrow.list_(text)),
            ("num_clips", pyarrow.int32()),
            ("num_words", pyarrow.int32()),
            ("seconds", number),
            ("duplicate_of", text),
        ]
    )


def table_row(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of the stages to a row of the Parquet files; times become seconds."""
    clip_ids, starts, ends, texts = zip(*row["clips"], strict=True)
    return {
        "id": row["id"],
        "video_id": row["video_id"],
        "url": row["url"] or None,
        "category": row["category"] or None,
        "clip_ids": list(clip_ids),
        "starts": [start / 1000 for start in starts],
        "ends": [end / 1000 for end in ends],
        "texts": list(texts),
        "num_clips": len(clip_ids),
        "num_words": sum(map(count_words, texts)),
        "seconds": (max(ends) - min(starts)) / 1000,
        "duplicate_of": row["duplicate_of"],
    }


# ---------------------------------------------------------------------------------------------------------------------


def bucket_of(video_id: str, buckets: int) -> int:
    """Return the partition of a video."""
    return (video_key(video_id) * buckets) >> 64


def _scatter_video(
    plan: BuildPlan, buckets: _Buckets, value: Any, line: int, log: ProblemLog, counts: Counter[str], task: int
) -> None:
    video, problems = read_video(value)
    for problem in problems:
        log.add(problem.kind, problem.detail, (task, line))
    counts.update(metadata_rows=1, metadata_clips=len(video.clips))
    bucket = _bucket(buckets, bucket_of(video.video_id, plan.buckets))
    bucket["videos"].append([video.video_id, video.url, video.category, video.duration, line])
    for clip in video.clips:
        bucket["clips"].append([video.video_id, clip.clip_id, clip.start, clip.end, line])
        if clip.text is not None:
            bucket["texts"].append([video.video_id, clip.clip_id, clip.text, line])


def _scatter_transcript(
    plan: BuildPlan, buckets: _Buckets, value: Any, line: int, log: ProblemLog, counts: Counter[str], task: int
) -> None:
    video_id, clip_id, text = read_transcript(value)
    counts["transcripts"] += 1
    _bucket(buckets, bucket_of(video_id, plan.buckets))["texts"].append([video_id, clip_id, text, line])


def _scatter_selection(
    plan: BuildPlan, buckets: _Buckets, value: Any, line: int, log: ProblemLog, counts: Counter[str], task: int
) -> None:
    video_id, ids = read_selection(value)
    counts["selection_rows"] += 1
    _bucket(buckets, bucket_of(video_id, plan.buckets))["selections"].append([video_id, ids, line])


def _write_piece(plan: BuildPlan, task: int, piece: int, buckets: _Buckets) -> None:
    """Write what was read of a chunk, by partition, and forget it."""
    parts = [
        json.dumps(buckets[bucket], separators=(",", ":")).encode() if bucket in buckets else b""
        for bucket in range(plan.buckets)
    ]
    write_parts(plan.piece(task, piece), parts)
    buckets.clear()


def _bucket(buckets: _Buckets, number: int) -> dict[str, list[Any]]:
    if number not in buckets:
        buckets[number] = {"videos": [], "clips": [], "texts": [], "selections": []}
    return buckets[number]


def _read_facts(plan: BuildPlan, bucket: int) -> dict[str, VideoFacts]:
    """Read what all inputs say about the videos of a partition."""
    facts: dict[str, VideoFacts] = {}
    pieces = [(task, plan.piece(task, piece)) for task, count in enumerate(plan.pieces) for piece in range(count)]
    for number, content in read_parts([path for _, path in pieces], bucket):
        task, said = pieces[number][0], json.loads(content)
        for video_id, url, category, duration, line in said["videos"]:
            facts.setdefault(video_id, VideoFacts()).videos.append((url, category, duration, (task, line)))
        for video_id, clip_id, start, end, line in said["clips"]:
            facts.setdefault(video_id, VideoFacts()).clips.setdefault(clip_id, []).append((start, end, (task, line)))
        for video_id, clip_id, text, line in said["texts"]:
            facts.setdefault(video_id, VideoFacts()).texts.setdefault(clip_id, []).append((text, (task, line)))
        for video_id, ids, line in said["selections"]:
            facts.setdefault(video_id, VideoFacts()).selections.append((tuple(ids), (task, line)))
    return facts


def _first_of_rows(plan: BuildPlan, bucket: int) -> dict[int, tuple[str, str, float]]:
    """Find the near-duplicates in a partition: split and id of the first row they repeat, and the similarity."""
    firsts = {}
    for row, first, similarity in keep_first(
        _read_records(plan.paths("pairs", plan.band_ranges), bucket, PAIR_DTYPE)
    ).tolist():
        rank, other, index = row_place(first)
        identifier = _mapped(plan.path("ids", other, "npy"))[index].decode()
        firsts[row_place(row)[2]] = (SPLITS[rank], identifier, similarity)
    _mapped.cache_clear()
    return firsts


def _read_records(paths: Sequence[Path], part: int, dtype: np.dtype) -> np.ndarray:
    """Read one part of several files as one array of records."""
    found = [np.frombuffer(content, dtype) for _, content in read_parts(paths, part)]
    return np.concatenate(found) if found else np.empty(0, dtype=dtype)


@lru_cache(maxsize=64)
def _mapped(path: Path) -> np.ndarray:
    """Map an array in a file into memory."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _write_lines(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="ascii") as file:
        file.writelines(f"{json.dumps(row, separators=(',', ':'))}\n" for row in rows)


def _read_lines(path: Path) -> Any:
    with path.open(encoding="ascii") as file:
        for line in file:
            yield json.loads(line)


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow

    return pyarrow.Table.from_pylist(rows, schema=schema)


def _rows_of(plan: BuildPlan, file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    part = SPLITS.index(file["split"])
    for bucket, first, take in file["slices"]:
        for line in read_part(plan.path("finished", bucket), part).splitlines()[first : first + take]:
            yield json.loads(line)


def _sha(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
