# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""The five stages of a build as pure functions of a plan and the number of a task.

1. `scatter`, per chunk of input: parse and check lines, sort what they say by partition of their video.
2. `gather`, per partition: put together what all inputs say about each of its videos, make rows; with them their
   min-hashes and bands.
3. `pair`, per range of band hashes: find near-duplicates.
4. `finish`, per partition: mark or leave out near-duplicates, sort rows by split.
5. `write` (in `writing`), per output file.

Partitions are ranges of a hash of the video id, and rows are sorted by that hash: the concatenated partitions are the
same rows in the same order however many partitions there are and wherever the input was cut. Between stages there are
only files in `BuildPlan.work` and the small dictionaries that the functions return, so a stage can run in this process,
in many, or on many machines that share that folder. A task holds one chunk or one partition in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .gathering import Row, Tally, VideoFacts, in_row_order, paragraph_of, rows_of_video
from .inputs import read_chunk
from .near_duplicates import (
    BAND_DTYPE,
    HASHES,
    PAIR_DTYPE,
    band_records,
    first_duplicates,
    keep_first,
    row_number,
    row_place,
    signature,
)
from .plan import SPLITS, BuildPlan
from .problems import ProblemLog
from .records import RecordProblem, parse_json_line, read_selection, read_transcript, read_video, video_key
from .spills import read_spills, split_by_range, write_spill
from .text import count_words

Report = dict[str, Any]
_Buckets = dict[int, dict[str, list[Any]]]


def scatter(plan: BuildPlan, task: int) -> Report:
    """Parse one chunk of input and sort it by partition.

    Returns:
        `lines` in the chunk, `problems`, `counts`.
    """
    chunk = plan.chunks[task]
    log = ProblemLog()
    counts: Counter[str] = Counter()
    buckets: _Buckets = {}
    number = -1
    add = {"metadata": _scatter_video, "transcripts": _scatter_transcript, "selection": _scatter_selection}[chunk.kind]
    for number, line in enumerate(read_chunk(chunk)):
        if line.isspace():
            continue
        try:
            add(plan, buckets, parse_json_line(line), number, log, counts, task)
        except RecordProblem as problem:
            log.add(problem.kind, problem.detail, (task, number))
    parts = [
        json.dumps(buckets[bucket], separators=(",", ":")).encode() if bucket in buckets else b""
        for bucket in range(plan.buckets)
    ]
    write_spill(plan.path("scattered", task), parts)
    return {"lines": number + 1, "problems": log.as_dict(), "counts": dict(counts)}


def gather(plan: BuildPlan, bucket: int) -> Report:
    """Make the rows of one partition, and what `pair` needs to compare them.

    Returns:
        `rows`, `problems`, `tally`.
    """
    log, tally = ProblemLog(), Tally()
    facts = _read_facts(plan, bucket)
    rows: list[Row] = []
    for video_id in in_row_order(facts):
        rows.extend(rows_of_video(video_id, facts.pop(video_id), plan.parameters, plan.selects, log, tally))
    _write_lines(plan.path("rows", bucket, "jsonl"), rows)
    if plan.parameters.near_duplicates != "off":
        ranks = [SPLITS.index(row["split"]) for row in rows]
        numbers = np.array([row_number(rank, bucket, index) for index, rank in enumerate(ranks)], dtype=np.uint64)
        signatures = np.empty((len(rows), HASHES), dtype=np.uint32)
        for index, row in enumerate(rows):
            signatures[index] = signature(paragraph_of(row))
        np.save(plan.path("signatures", bucket, "npy"), signatures)
        np.save(plan.path("ids", bucket, "npy"), np.array([row["id"].encode() for row in rows] or [b""]))
        bands = band_records(signatures, numbers)
        write_spill(plan.path("bands", bucket), split_by_range(bands, bands["hash"], plan.band_ranges))
    return {"rows": len(rows), "problems": log.as_dict(), "tally": tally.as_dict()}


def pair(plan: BuildPlan, part: int) -> Report:
    """Find the near-duplicates among rows that share a band of one range.

    Returns:
        `pairs`: how many rows have one here.
    """
    found = [np.frombuffer(content, BAND_DTYPE) for _, content in read_spills(plan.paths("bands", plan.buckets), part)]
    records = np.concatenate(found) if found else np.empty(0, dtype=BAND_DTYPE)

    def signatures_of(rows: np.ndarray) -> np.ndarray:
        answer = np.empty((len(rows), HASHES), dtype=np.uint32)
        for place, row in enumerate(rows.tolist()):
            _, bucket, index = row_place(row)
            answer[place] = _mapped(plan.path("signatures", bucket, "npy"))[index]
        return answer

    pairs = first_duplicates(records, signatures_of, plan.parameters.similarity)
    _mapped.cache_clear()
    # By partition of the row; within one, ranks would separate them, and the reader sorts again anyway.
    buckets = np.array([row_place(row)[1] for row in pairs["row"].tolist()], dtype=np.int64)
    pairs = pairs[np.argsort(buckets, kind="stable")]
    places = np.searchsorted(np.sort(buckets), np.arange(plan.buckets + 1))
    parts = [pairs[start:end].tobytes() for start, end in zip(places, places[1:], strict=False)]
    write_spill(plan.path("pairs", part), parts)
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
    write_spill(plan.path("finished", bucket), ["".join(f"{line}\n" for line in lines[s]).encode() for s in SPLITS])
    _write_lines(plan.path("duplicates", bucket, "jsonl"), marks)
    return {
        "rows": {split: len(lines[split]) for split in SPLITS},
        "counts": {split: dict(counts[split]) for split in SPLITS},
        "near_duplicates": dict(duplicates),
    }


# ---------------------------------------------------------------------------------------------------------------------


def bucket_of(video_id: str, buckets: int) -> int:
    """The partition of a video."""
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


def _bucket(buckets: _Buckets, number: int) -> dict[str, list[Any]]:
    if number not in buckets:
        buckets[number] = {"videos": [], "clips": [], "texts": [], "selections": []}
    return buckets[number]


def _read_facts(plan: BuildPlan, bucket: int) -> dict[str, VideoFacts]:
    """What all inputs say about the videos of a partition."""
    facts: dict[str, VideoFacts] = {}
    for task, content in read_spills(plan.paths("scattered", len(plan.chunks)), bucket):
        said = json.loads(content)
        for video_id, url, category, duration, line in said["videos"]:
            facts.setdefault(video_id, VideoFacts()).videos.append((url, category, duration, (task, line)))
        for video_id, clip_id, start, end, line in said["clips"]:
            facts[video_id].clips.setdefault(clip_id, []).append((start, end, (task, line)))
        for video_id, clip_id, text, line in said["texts"]:
            facts.setdefault(video_id, VideoFacts()).texts.setdefault(clip_id, []).append((text, (task, line)))
        for video_id, ids, line in said["selections"]:
            facts.setdefault(video_id, VideoFacts()).selections.append((tuple(ids), (task, line)))
    return facts


def _first_of_rows(plan: BuildPlan, bucket: int) -> dict[int, tuple[str, str, float]]:
    """Of rows of a partition that are near-duplicates: split and id of the first they repeat, and the similarity."""
    found = [
        np.frombuffer(content, PAIR_DTYPE) for _, content in read_spills(plan.paths("pairs", plan.band_ranges), bucket)
    ]
    if not found:
        return {}
    firsts = {}
    for row, first, similarity in keep_first(np.concatenate(found)).tolist():
        rank, other, index = row_place(first)
        identifier = _mapped(plan.path("ids", other, "npy"))[index].decode()
        firsts[row_place(row)[2]] = (SPLITS[rank], identifier, similarity)
    _mapped.cache_clear()
    return firsts


@lru_cache(maxsize=64)
def _mapped(path: Path) -> np.ndarray:
    """An array in a file, read where it is looked at."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _write_lines(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="ascii") as file:
        file.writelines(f"{json.dumps(row, separators=(',', ':'))}\n" for row in rows)


def _read_lines(path: Path) -> Any:
    with path.open(encoding="ascii") as file:
        for line in file:
            yield json.loads(line)
