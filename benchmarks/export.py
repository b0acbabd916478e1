"""Exported towers in ONNX Runtime and OpenVINO against eager, compiled, the plain port and the bare products.

    python benchmarks/export.py --preset base --rounds 3 --threads 1
    python benchmarks/export.py --preset base --rounds 3 --threads 2 --compiled --models swin timesformer videomae
    python benchmarks/export.py --towers text --preset base
    python benchmarks/export.py --demo outputs/demo          # what int8 costs in R@1

| row | what runs |
|---|---|
| `floor`, `onednn` | linear layers of the tower as bare matrix products, by BLAS and by oneDNN (floors.py) |
| `eager`, `compiled` | the tower with its projections in PyTorch; `compiled` with `--compiled` |
| `plain` | the plain port of the video tower, eager (plain_htwa.py), without projections |
| `onnx`, `openvino` | the exported tower in float32; with `int8` and `float16` in those |
| `swin onnx`, ... | other models at equal tokens (video_baselines.py), exported the same way at fixed sizes |

All weights are random.

Seconds are processor time of all threads, so that other work on the machine does not count; `x floor` and `x eager` are
medians of each round's ratio. `difference` is the largest one from eager. `load` is the processor time of opening the
graph, `MB` the size of its files. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from floors import ProductRecorder, has_onednn, make_floor, make_onednn_floor
from measuring import Part, finish, make_parser, print_table, ratio, read_options, record
from text_tower import make_batch
from video_baselines import BASELINES

from lfvila_hf import LFVilaConfig, LFVilaModel
from lfvila_hf.export.exported_model import ExportedLFVila, load_graph
from lfvila_hf.export.exporting import OPSET, TextTower, VideoTower, export_model, store_graph, write_graph
from lfvila_hf.export.manifest import ENGINES, PRECISIONS

OTHERS = ("swin", "timesformer", "videomae")


def make_model(options: argparse.Namespace) -> LFVilaModel:
    """The joint model of the preset with random weights."""
    torch.manual_seed(0)
    model = LFVilaModel(getattr(LFVilaConfig, options.preset)()).eval()
    model.set_attn_implementation("sdpa")  # as `from_pretrained` does for both towers
    return model


def make_inputs(tower: str, model: LFVilaModel, options: argparse.Namespace) -> tuple[torch.Tensor, ...]:
    """One video of the preset's frames, or padded paragraphs."""
    torch.manual_seed(1)
    video = model.config.video_config
    if tower == "video":
        return (torch.randn(options.batch, video.num_frames, video.num_channels, *video.image_size),)
    return tuple(make_batch("padded", options, model.config.text_config.vocab_size).values())


def in_torch(module: Any, inputs: tuple[torch.Tensor, ...]) -> Part:
    """A forward in PyTorch without gradients."""

    def forward() -> list[np.ndarray]:
        with torch.inference_mode():
            found = module(*inputs)
        return [one.numpy() for one in found] if isinstance(found, tuple) and len(found) else []

    return forward


def in_engine(
    graph: Path, inputs: tuple[torch.Tensor, ...], options: argparse.Namespace
) -> tuple[Part, dict[str, float]]:
    """A forward in an engine, with the time that opening took and the size of the files."""
    start = time.process_time()
    run = load_graph(graph, options.threads)
    facts = {"load": time.process_time() - start}
    files = [path for path in graph.parent.iterdir() if path.name.startswith(graph.stem)]
    facts["mb"] = sum(path.stat().st_size for path in files) / 1e6
    arrays = tuple(one.numpy() for one in inputs)
    return (lambda: run(arrays)), facts


def export_other(name: str, model: LFVilaModel, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
    """Export another video model at the size of these inputs."""
    torch.manual_seed(0)
    module = BASELINES[name](model.config.video_config).eval()
    with torch.no_grad():
        program = torch.onnx.export(module, inputs, dynamo=True, opset_version=OPSET, verbose=False)
    assert program is not None
    program.save(path, external_data=True)


def make_parts(
    tower: str, options: argparse.Namespace, folder: Path
) -> tuple[dict[str, Part], dict[str, dict[str, Any]], dict[str, Part]]:
    """The rows of one tower, facts about them, and those whose results are compared with eager."""
    model = make_model(options)
    inputs = make_inputs(tower, model, options)
    facts: dict[str, dict[str, Any]] = {}
    module = (VideoTower if tower == "video" else TextTower)(model).eval()
    with torch.no_grad(), ProductRecorder() as recorder:
        module(*inputs)
    parts = {"floor": make_floor(recorder.shapes, training=False)}
    if has_onednn():
        parts["onednn"] = make_onednn_floor(recorder.shapes)
    same: dict[str, Part] = {"eager": in_torch(module, inputs)}
    if options.compiled:
        same["compiled"] = in_torch(torch.compile(module, dynamic=False), inputs)
    graph = folder / "graph" / f"{tower}.onnx"
    graph.parent.mkdir(exist_ok=True)
    start = time.process_time()
    write_graph(model, tower, graph)
    print(f"{tower}: {time.process_time() - start:.0f} s of processor time to trace and write the graph", flush=True)
    for engine in options.engines:
        for precision in options.precisions:
            name = engine if precision == "float32" else f"{engine} {precision}"
            place = folder / name.replace(" ", "_")
            place.mkdir(exist_ok=True)
            store_graph(graph, place, engine, precision)
            same[name], facts[name] = in_engine(place / f"{tower}{ENGINES[engine]}", inputs, options)
    if tower == "video" and options.models:
        torch.manual_seed(0)
        parts["plain"] = in_torch(BASELINES["plain"](model.config.video_config).eval(), inputs)
        for name in options.models:
            graph = folder / "graph" / f"{name}.onnx"
            export_other(name, model, inputs, graph)
            for engine in options.engines:
                place = folder / f"{name}_{engine}"
                place.mkdir(exist_ok=True)
                store_graph(graph, place, engine, "float32")
                row = f"{name} {engine}"
                parts[row], facts[row] = in_engine(place / f"{name}{ENGINES[engine]}", inputs, options)
    return parts | same, facts, same


def measure(tower: str, options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Processor seconds, ratios, differences, sizes and load times of every row; prints a table."""
    parts, facts, same = make_parts(tower, options, folder)
    expected = parts["eager"]()
    rows = {name: dict(facts.get(name, {})) for name in parts}
    for name, part in parts.items():  # the round of warm-up
        found = part()
        if name in same:
            pairs = zip(found, expected, strict=True)
            rows[name]["difference"] = max(float(np.abs(one - other).max()) for one, other in pairs)
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(options.rounds):
        for name, part in parts.items():
            start = time.process_time()
            part()
            seconds[name].append(time.process_time() - start)
    for name, row in rows.items():
        row |= {"seconds": statistics.median(seconds[name]), "rounds": seconds[name]}
        row["x_eager"] = ratio(seconds, name, "eager")
        row["x_floor"] = ratio(seconds, name, "floor")
    columns = [
        one
        for one in ("x_floor", "x_eager", "seconds", "difference", "mb", "load")
        if any(one in r for r in rows.values())
    ]
    print_table([tower, *columns], ([name, *(row.get(one) for one in columns)] for name, row in rows.items()))
    print(flush=True)
    return rows


def measure_demo(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """R@1 and order of the demo's test stories with every export of its checkpoint; prints a table."""
    from transformers import AutoModel, AutoProcessor

    from lfvila_hf import encode_paragraphs, encode_videos
    from lfvila_hf.data.annotations import load_retrieval
    from lfvila_hf.evaluation.retrieval import retrieval_metrics

    tales, checkpoint = options.demo / "shapetales", options.demo / "checkpoint"
    data = load_retrieval(tales / "annotations" / "retrieval_test.jsonl", tales / "videos")
    processor = AutoProcessor.from_pretrained(checkpoint)
    reference: Any = AutoModel.from_pretrained(checkpoint).eval()
    rows: dict[str, dict[str, Any]] = {}

    def evaluate(name: str, model: Any) -> None:
        videos = encode_videos(model, processor, list(data["video"]))
        texts = encode_paragraphs(model, processor, [list(one) for one in data["sentences"]])
        scores = {score: reference.similarity(texts, videos, score=score) for score in ("global", "aligned", "both")}
        rows[name] = {
            f"{score}_{key}": retrieval_metrics(lambda t, v, s=s: s[t][:, v], len(s), len(s))[f"{key}_r1"]
            for score, s in scores.items()
            for key in ("t2v", "v2t")
        }

    evaluate("eager", reference)
    for engine in options.engines:
        for precision in options.precisions:
            name = engine if precision == "float32" else f"{engine} {precision}"
            place = export_model(checkpoint, folder / f"demo_{name.replace(' ', '_')}", engine, precision)
            evaluate(name, ExportedLFVila.from_pretrained(place, options.threads))
    columns = list(rows["eager"])
    print_table(["R@1", *columns], ([name, *(row[one] for one in columns)] for name, row in rows.items()))
    print(flush=True)
    return rows


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--preset", choices=["tiny", "base"], default="tiny", help="size of the models")
    parser.add_argument("--batch", type=int, default=1, help="videos, or paragraphs")
    parser.add_argument("--sentences", type=int, default=4, help="M")
    parser.add_argument("--length", type=int, default=50, help="L")
    parser.add_argument("--towers", nargs="*", choices=["video", "text"], default=["video", "text"], help="towers")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES), help="engines")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32", "int8"], help="precisions")
    parser.add_argument("--models", nargs="*", choices=OTHERS, default=[], help="other models, and the plain port")
    parser.add_argument("--compiled", action="store_true", help="also time torch.compile")
    parser.add_argument("--demo", type=Path, help="output folder of `make demo`: measure R@1 of its exports")
    return read_options(parser, arguments, "batch", "sentences", "length")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print tables and one JSON object."""
    options = parse_arguments(arguments)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for tower in options.towers:
            found[tower] = measure(tower, options, Path(folder))
        if options.demo is not None:
            found["demo"] = measure_demo(options, Path(folder))
            options.demo = str(options.demo)
    finish(record("export", options, **found), options)


if __name__ == "__main__":
    main()
