"""Time, recall and memory of the search over many segments, beside exact search.

    python benchmarks/library_search.py --rows 100000 1000000 --threads 2

Vectors are made up: segments of a library are near others of the same video, so rows are gathered around one centre for
every ten (`--per-video`), and a query is a row with as much noise on it as it has length (a text is not near its video
as a copy is). `--per-video 1` has no structure at all, which is the worst case. Recall@10 is against exact search over
float32. Memory is what the FAISS index holds; the float32 vectors themselves stay in a file that is mapped into memory,
of which the search touches the rows that it scores exactly. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def make_vectors(file: Path, rows: int, width: int, per_video: int) -> np.ndarray:
    """`(rows, width)` L2-normalised vectors in a file, mapped into memory."""
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(rows, width))
    generator = np.random.default_rng(0)
    step = 50_000 // per_video * per_video
    for start in range(0, rows, step):
        count = min(step, rows - start)
        block = generator.standard_normal((count, width), dtype=np.float32)
        if per_video > 1:
            centres = generator.standard_normal((-(-count // per_video), width), dtype=np.float32)
            block = 0.6 * block + np.repeat(centres, per_video, axis=0)[:count]
        array[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    array.flush()
    return np.load(file, mmap_mode="r")


def make_queries(array: np.ndarray, count: int) -> np.ndarray:
    """Rows with noise of their own length on them, `(count, width)`."""
    generator = np.random.default_rng(2)
    rows = np.array(array[np.sort(generator.integers(0, len(array), count))])
    noise = generator.standard_normal(rows.shape, dtype=np.float32) / np.float32(rows.shape[1] ** 0.5)
    queries = rows + noise
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def measure(rows: int, width: int, per_video: int, kind: str, queries: int, k: int) -> dict[str, Any]:
    """Build, search one query at a time, compare."""
    from lfvila_hf.library.vectors import ExactSearch, build_faiss, choose_kind, load_search, recall_of, save_faiss

    with tempfile.TemporaryDirectory() as folder:
        array = make_vectors(Path(folder) / "vectors.npy", rows, width, per_video)
        wanted = make_queries(array, queries)
        chosen = choose_kind(rows, kind)  # type: ignore[arg-type]  # one of its names
        about: dict[str, Any] = {}
        index_bytes = 0
        start = time.perf_counter()
        search: Any = ExactSearch(array)
        if chosen != "exact":
            index, about = build_faiss(array, chosen)
            save_faiss(index, Path(folder) / "search.faiss")
            index_bytes = (Path(folder) / "search.faiss").stat().st_size
            search = load_search(array, chosen, Path(folder) / "search.faiss", about.get("nprobe"))
        built = time.perf_counter() - start
        search.search(wanted[:2], k)
        times, cpu_times, found = [], [], []
        for query in wanted:
            start, cpu_start = time.perf_counter(), time.process_time()
            found.append(search.search(query[None], k)[1][0])
            times.append(time.perf_counter() - start)
            cpu_times.append(time.process_time() - cpu_start)
        start = time.perf_counter()
        _, right = ExactSearch(array).search(wanted, k)
        return {
            "rows": rows,
            "width": width,
            "per_video": per_video,
            "kind": chosen,
            "k": k,
            "build_s": round(built, 1),
            "ms_median": round(1000 * float(np.median(times)), 2),
            "ms_p90": round(1000 * float(np.quantile(times, 0.9)), 2),
            "ms_min": round(1000 * min(times), 2),
            "cpu_ms_median": round(1000 * float(np.median(cpu_times)), 2),
            "recall_at_10": round(recall_of(np.stack(found)[:, :10], right[:, :10]), 4),
            "index_mib": round(index_bytes / 2**20, 1),
            "vectors_mib": round(array.nbytes / 2**20, 1),
            **{name: value for name, value in about.items() if name != "recall_at_10"},
        }


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--per-video", type=int, nargs="+", default=[10, 1])
    parser.add_argument("--kind", default="auto")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    results = []
    for rows in options.rows:
        for per_video in options.per_video:
            results.append(measure(rows, options.width, per_video, options.kind, options.queries, options.k))
            print(results[-1], flush=True)
    print(json.dumps({"benchmark": "library_search", "threads": options.threads, "results": results}))


if __name__ == "__main__":
    main()
