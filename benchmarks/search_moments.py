"""LF-VILA's demo on ShapeTales: does the library find the story, its order, its seconds, and say "not here"?

    python benchmarks/search_moments.py --checkpoint outputs/demo/checkpoint --stories outputs/demo/shapetales

1. `stories`: 200 held-out videos in a library, R@1 of every story by *both*, and how often a video prefers its story to
   its twin (the same events in another order).
2. `not_here`: in every video, sentences of other stories are searched; `foreign_found` is the share reported as
   found, `own_found` that of the video's own sentences.
3. `spans`: five stories one behind the other are films of about a minute, cut into overlapping segments; each story is
   searched in its film. `mean_iou` and `r1_iou_0.5` of the best place of every sentence, `right` (its middle lies
   in the
   seconds told) and `far` (more than five seconds away); `cell` takes the one cell of the alignment instead, as the
   library did before.

The last line is one JSON object.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from measuring import finish, make_parser, record

from lfvila_hf.alignment_lfvila import monotone_alignment
from lfvila_hf.evaluation.moments import SpanPrediction, auroc, moment_metrics
from lfvila_hf.search import SegmentRule, VideoLibrary, load_encoder

FAR = 5.0
STORIES_PER_FILM = 5
FOREIGN = 5


def join(parts: Sequence[Path], path: Path) -> None:
    """One film of several files of the same encoder, without encoding anew."""
    with av.open(str(path), "w") as film:
        stream: Any = None
        shift = 0
        for part in parts:
            with av.open(str(part)) as source:
                video = source.streams.video[0]
                stream = stream or film.add_stream_from_template(video)
                end = shift
                for packet in source.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    end = max(end, packet.pts + (packet.duration or 0))
                    packet.stream = stream
                    film.mux(packet)
                shift = end


def find_stories(library: VideoLibrary, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """R@1 of the stories, and preference of the right order."""
    hits = [library.search(row["text"], top_k=1)[0].path == f"{row['clip_id']}.mp4" for row in rows]
    texts = {row["clip_id"]: row["text"] for row in rows}
    twins = []
    for row in rows:
        if row["twin_of"] in texts:
            ranked = library.rank_texts(f"{row['clip_id']}.mp4", [row["text"], texts[row["twin_of"]]])
            twins.append(ranked[0][0] == 0)
    return {"r1": float(np.mean(hits)), "order": float(np.mean(twins)) if twins else float("nan"), "stories": len(rows)}


def not_here(library: VideoLibrary, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Own and foreign sentences searched in every video."""
    generator = np.random.default_rng(0)
    found: tuple[list[bool], list[bool]] = ([], [])
    raw: tuple[list[float], list[float]] = ([], [])
    p_values: tuple[list[float], list[float]] = ([], [])
    for row in rows:
        others = [other for other in rows if other is not row]
        foreign = [str(generator.choice(others[int(generator.integers(len(others)))]["text"])) for _ in range(FOREIGN)]
        for kind, sentences in enumerate((row["text"], foreign)):
            for sentence in sentences:  # one at a time: no order, no help from the others
                moment = library.search([sentence], path=f"{row['clip_id']}.mp4", score="aligned")[0]
                found[kind].append(moment.moments[0].found)
                raw[kind].append(float(moment.cosines.max()))  # type: ignore[union-attr]  # there are clips
                p_values[kind].append(-moment.moments[0].p_value)
    return {
        "own_found": float(np.mean(found[0])),
        "foreign_found": float(np.mean(found[1])),
        "auroc_raw": auroc(*raw),
        "auroc_p": auroc(*p_values),
        "foreign": len(found[1]),
    }


def find_spans(library: VideoLibrary, films: Sequence[Sequence[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Places of every sentence in its film, as they are given and as the one cell of the alignment."""
    predictions: dict[str, list[SpanPrediction]] = {"grown": [], "cell": []}
    away: dict[str, list[float]] = {"grown": [], "cell": []}
    for number, stories in enumerate(films):
        offset = 0.0
        for story in stories:
            (hit,) = library.search(story["text"], path=f"film_{number:03d}.mp4")
            told = [offset + second for second in story["seconds"]] + [offset + story["duration"]]
            cells = monotone_alignment(hit.cosines)[1].tolist()  # type: ignore[arg-type]  # there are clips
            for moment, cell, first, last in zip(hit.moments, cells, told[:-1], told[1:], strict=True):
                spans = {"grown": (moment.start, moment.end), "cell": (hit.clip_times[cell], hit.clip_times[cell + 1])}
                for way, span in spans.items():
                    predictions[way].append(SpanPrediction([span], [1.0], [(first, last)]))
                    middle = (span[0] + span[1]) / 2
                    away[way].append(max(first - middle, middle - last, 0.0))
            offset += story["duration"]
    return {
        way: {
            **moment_metrics(some),
            "right": float(np.mean(np.array(away[way]) == 0)),
            "far": float(np.mean(np.array(away[way]) > FAR)),
        }
        for way, some in predictions.items()
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    parser = make_parser(__doc__, rounds=1)
    parser.add_argument("--checkpoint", default="outputs/demo/checkpoint", help="checkpoint of the demo")
    parser.add_argument("--stories", default="outputs/demo/shapetales", help="a ShapeTales folder")
    parser.add_argument("--videos", type=int, default=200, help="held-out videos of the library")
    parser.add_argument("--films", type=int, default=30, help="films of five stories")
    parser.add_argument("--segment-seconds", type=float, nargs="+", default=[12.0], help="segments of the films")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    encoder = load_encoder(options.checkpoint)
    folder = Path(options.stories)
    lines = (folder / "annotations" / "retrieval_test.jsonl").read_text("utf-8").splitlines()
    rows = list(map(json.loads, lines))
    results: dict[str, Any] = {}
    library = VideoLibrary(encoder, root=folder / "videos", batch_size=16)
    library.add([folder / "videos" / f"{row['clip_id']}.mp4" for row in rows[: options.videos]])
    results["stories"] = find_stories(library, rows[: options.videos])
    print(json.dumps(results["stories"]), flush=True)
    results["not_here"] = not_here(library, rows[: options.videos])
    print(json.dumps(results["not_here"]), flush=True)
    rows = [row for row in rows if len(row["text"]) >= 3]
    films = [rows[n : n + STORIES_PER_FILM] for n in range(0, len(rows), STORIES_PER_FILM)][: options.films]
    with tempfile.TemporaryDirectory() as name:
        for number, stories in enumerate(films):
            parts = [folder / "videos" / f"{row['clip_id']}.mp4" for row in stories]
            join(parts, Path(name) / f"film_{number:03d}.mp4")
        for seconds in options.segment_seconds:
            library = VideoLibrary(encoder, rule=SegmentRule(seconds, 0.5), root=name, batch_size=16)
            library.add(name)
            results[f"spans_{seconds:g}s"] = find_spans(library, films)
            print(seconds, json.dumps(results[f"spans_{seconds:g}s"]), flush=True)
    answer = record(Path(__file__).stem, options, **results)
    finish(answer, options)
    return answer


if __name__ == "__main__":
    main()
