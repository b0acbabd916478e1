"""Time, memory and recall of the story search, exact and through FAISS and LanceDB, on random or given vectors.

    python benchmarks/search_speed.py --segments 100000 --others
    python benchmarks/search_speed.py --vectors clips.npy --clips 8        # real clip vectors (C, D), 8 a segment

Stories are four clips of one segment with noise on them. `exact` is the whole `rank_by_story`: product, bound,
alignment, calibration and moments of ten hits; `scan` is the product and the bound alone. Recall is the part of the
exact ten best segments by the aligned score that are among the candidates of another index: per sentence the 200
nearest clips from FAISS (8-bit codes; inverted lists with 8-bit codes), or LanceDB's multivector search. The last line
is one JSON object.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from measuring import finish, make_parser, record

from lfvila_hf.search.ranking import Scan, View, best_segments, rank_by_story
from lfvila_hf.search.story_sentences import Story


def make_view(block: np.ndarray, clips: int) -> View:
    """A library of segments of so many clips over a block of vectors."""
    count = len(block) // clips
    starts = np.arange(count, dtype=np.float64) * 30
    columns = {
        "path": [f"{number // 10:06d}.mp4" for number in range(count)],
        "segment": np.arange(count, dtype=np.int32) % 10,
        "start": starts % 300,
        "end": starts % 300 + 60,
        "duration": np.full(count, 330.0),
        "clip_times": pa.ListArray.from_arrays(
            pa.array(np.arange(count + 1) * (clips + 1), pa.int32()),
            pa.array((starts[:, None] % 300 + np.linspace(0, 60, clips + 1)).reshape(-1)),
        ),
        "file_size": np.zeros(count, np.int64),
        "mtime_ns": np.zeros(count, np.int64),
    }
    return View(pa.table(columns), block[: count * clips], False)


def make_story(view: View, generator: np.random.Generator, sentences: int) -> Story:
    """Some clips of one segment in their order, with noise as long as they are."""
    clips = view.clips(int(generator.integers(len(view.rows))))
    chosen = np.sort(generator.integers(0, len(clips), sentences))
    noise = generator.standard_normal((sentences, clips.shape[1])).astype(np.float32) / np.sqrt(clips.shape[1])
    vectors = clips[chosen] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Story(tuple(f"sentence {n}" for n in range(sentences)), torch.from_numpy(vectors.astype(np.float32)), None)


def timed(work: Callable[[Story], Any], stories: list[Story]) -> tuple[list[float], list[Any]]:
    """Milliseconds and answers."""
    times, answers = [], []
    for story in stories:
        start = time.perf_counter()
        answers.append(work(story))
        times.append(1e3 * (time.perf_counter() - start))
    return times, answers


def summary(times: list[float]) -> dict[str, float]:
    """Median and 90 % quantile of milliseconds."""
    return {"median_ms": round(float(np.median(times)), 1), "p90_ms": round(float(np.quantile(times, 0.9)), 1)}


def faiss_candidates(index: Any, clips: int) -> Callable[[Story], set[int]]:
    """Segments of the 200 nearest clips of each sentence."""
    return lambda story: set((index.search(story.vectors.numpy(), 200)[1] // clips).reshape(-1).tolist())


def others(view: View, clips: int, stories: list[Story], right: list[list[int]], folder: Path) -> dict[str, Any]:
    """Time, recall, size and building of FAISS kinds and LanceDB."""
    import faiss
    import lancedb

    block = np.ascontiguousarray(view.block)
    width = block.shape[1]
    found: dict[str, Any] = {}
    lists = int(4 * len(block) ** 0.5)
    makers: dict[str, Callable[[], Any]] = {
        "faiss sq8": lambda: faiss.IndexScalarQuantizer(
            width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        ),
        "faiss ivf sq8": lambda: faiss.index_factory(width, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT),
    }
    for name, make in makers.items():
        start = time.perf_counter()
        index = make()
        index.train(block[:: max(len(block) // 100_000, 1)])
        index.add(block)
        built = time.perf_counter() - start
        for probes in [None] if "ivf" not in name else [16, 64, 256]:
            if probes:
                index.nprobe = probes
            times, candidates = timed(faiss_candidates(index, clips), stories)
            recall = float(np.mean([len(set(a) & b) / len(a) for a, b in zip(right, candidates, strict=True)]))
            faiss.write_index(index, str(folder / "index.faiss"))
            found[f"{name} {probes or ''}".strip()] = {
                **summary(times),
                "recall_at_10": round(recall, 3),
                "build_s": round(built, 1),
                "disk_mb": round((folder / "index.faiss").stat().st_size / 2**20, 1),
            }
            print(name, probes, found[f"{name} {probes or ''}".strip()], flush=True)
        del index
    count = len(view.rows)
    inner = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), width)
    column = pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * clips, pa.int32()), inner)
    start = time.perf_counter()
    table = lancedb.connect(str(folder / "lance")).create_table(
        "t", pa.table({"row": np.arange(count), "clips": column})
    )
    written = time.perf_counter() - start
    size = sum(file.stat().st_size for file in (folder / "lance").rglob("*") if file.is_file())

    def ask(story: Story) -> set[int]:
        query = table.search([row for row in story.vectors.numpy()], vector_column_name="clips").distance_type("cosine")
        return set(query.limit(200).select(["row", "_distance"]).to_arrow().column("row").to_pylist())

    times, candidates = timed(ask, stories[:5])
    recall = float(np.mean([len(set(a) & b) / len(a) for a, b in zip(right, candidates, strict=False)]))
    found["lancedb without an index"] = {
        **summary(times),
        "recall_at_10": round(recall, 3),
        "build_s": round(written, 1),
        "disk_mb": round(size / 2**20, 1),
    }
    print("lancedb", found["lancedb without an index"], flush=True)
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    parser = make_parser(__doc__, rounds=20)
    parser.add_argument("--segments", type=int, default=100_000, help="segments of random vectors")
    parser.add_argument("--clips", type=int, default=8, help="clips of a segment")
    parser.add_argument("--width", type=int, default=512, help="numbers of a vector")
    parser.add_argument("--sentences", type=int, default=4, help="sentences of a story")
    parser.add_argument("--vectors", help="real clip vectors (C, D), .npy")
    parser.add_argument("--others", action="store_true", help="measure FAISS and LanceDB too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "block.f32"
        if options.vectors:
            np.load(options.vectors).astype(np.float32).tofile(file)
            width = np.load(options.vectors, mmap_mode="r").shape[1]
        else:
            width = options.width
            with file.open("wb") as out:
                for _ in range(0, options.segments, 1000):
                    part = generator.standard_normal((min(1000, options.segments) * options.clips, width), np.float32)
                    out.write((part / np.linalg.norm(part, axis=1, keepdims=True)).tobytes())
        view = make_view(np.memmap(file, np.float32, "c").reshape(-1, width), options.clips)
        stories = [make_story(view, generator, options.sentences) for _ in range(options.rounds + 1)]
        rank_by_story(view, stories[0])  # once, so that the file is in memory
        results: dict[str, Any] = {"segments": len(view.rows), "clips": len(view.block), "width": width}
        results["block_mb"] = round(os.path.getsize(file) / 2**20)
        times, _ = timed(lambda story: rank_by_story(view, story), stories[1:])
        results["exact"] = summary(times)
        times, _ = timed(lambda story: Scan(view, story).bound("aligned"), stories[1:])
        results["scan"] = summary(times)
        results["max_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(results, flush=True)
        if options.others:
            right = [
                [row for row, _ in best_segments(Scan(view, story), "aligned", 10, per_video=10)]
                for story in stories[1:]
            ]
            results["others"] = others(view, options.clips, stories[1:], right, Path(folder))
    answer = record(Path(__file__).stem, options, **results)
    finish(answer, options)
    return answer


if __name__ == "__main__":
    main()
