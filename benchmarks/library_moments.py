"""Accuracy of the seconds of sentences in films that are longer than a segment.

    python benchmarks/library_moments.py --checkpoint outputs/demo/checkpoint --stories outputs/demo/shapetales

Held-out ShapeTales stories, five one behind the other, are films of about a minute. They are cut into overlapping
segments, and each story is looked for in its film: the segment with the highest *both* score, then the monotone
alignment of its sentences

- `best`: with the clips of that segment alone;
- `overlapping`: with the cells of that segment and of those that overlap it (what a library does);
- `whole`: with the cells of the whole film.

`right` is the part of the sentences whose moment has its middle in the seconds that the sentence tells of, `overlap`
the mean of intersection over union of the two, `far` the part whose middle is more than five seconds away from them.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

FAR = 5.0
STORIES_PER_FILM = 5


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


def measure(
    film: Path, stories: Sequence[dict[str, Any]], encoder: Any, processor: Any
) -> dict[str, list[list[float]]]:
    """For each way, a row per sentence: right, overlap and far."""
    from lfvila_hf.alignment_lfvila import aligned_similarity, monotone_alignment
    from lfvila_hf.library.embedding import VideoFile
    from lfvila_hf.library.moments import cell_cosines, cells_of_clips
    from lfvila_hf.library.stories import read_story
    from lfvila_hf.library.table import FileStamp, vectors_of

    ((_, table),) = encoder.encode_files([VideoFile(film.name, str(film), FileStamp.of(film))])
    if isinstance(table, Exception):
        raise table
    segments = torch.tensor(vectors_of(table, "segment_embedding"))  # (S, D)
    clips = torch.tensor(vectors_of(table, "clip_embeddings")).view(len(segments), -1, segments.shape[1])  # (S, K, D)
    times, starts, ends = (table.column(name).to_pylist() for name in ("clip_times", "start", "end"))
    found: dict[str, list[list[float]]] = {"best": [], "overlapping": [], "whole": []}
    offset = 0.0
    for story in stories:
        read: Any = read_story(encoder.model, processor, story["text"]).embeddings
        sentences = read.sentence_embeds[0]  # (M, D)
        aligned = aligned_similarity(read.sentence_embeds, read.sentence_mask, clips)[0]  # (S,)
        best = int((segments @ read.text_embeds[0] + aligned).argmax())
        near = [n for n in range(len(starts)) if starts[n] < ends[best] and ends[n] > starts[best]]
        told = [offset + second for second in story["seconds"]] + [offset + story["duration"]]
        for way, some in {"best": [best], "overlapping": near, "whole": list(range(len(starts)))}.items():
            some_times = [times[n] for n in some]
            bounds = cells_of_clips(some_times)
            cosines = cell_cosines(some_times, torch.einsum("md,skd->smk", sentences, clips[some]), bounds)
            for sentence, cell in enumerate(monotone_alignment(cosines)[1].tolist()):
                start, end, first, last = bounds[cell], bounds[cell + 1], told[sentence], told[sentence + 1]
                middle = (start + end) / 2
                away = max(first - middle, middle - last, 0.0)
                shared = max(0.0, min(end, last) - max(start, first)) / (max(end, last) - min(start, first))
                found[way].append([float(away == 0), shared, float(away > FAR)])
        offset += story["duration"]
    return found


def main() -> None:
    """Measure every way for every length of a segment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="outputs/demo/checkpoint")
    parser.add_argument("--stories", type=Path, default=Path("outputs/demo/shapetales"), help="a ShapeTales folder")
    parser.add_argument("--films", type=int, default=30)
    parser.add_argument("--segment-seconds", type=float, nargs="+", default=[12.0, 16.0])
    parser.add_argument("--overlap", type=float, default=0.5)
    options = parser.parse_args()

    from lfvila_hf.library.embedding import SegmentEncoder
    from lfvila_hf.library.fingerprint import load_checkpoint
    from lfvila_hf.library.segments import SegmentRule

    model, processor = load_checkpoint(options.checkpoint)
    lines = (options.stories / "annotations" / "retrieval_test.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if 3 <= len(row["text"]) <= processor.max_sentences]
    films = [rows[n : n + STORIES_PER_FILM] for n in range(0, len(rows), STORIES_PER_FILM)][: options.films]
    results = []
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"film_{number}.mp4" for number in range(len(films))]
        for path, stories in zip(paths, films, strict=True):
            join([options.stories / "videos" / f"{row['clip_id']}.mp4" for row in stories], path)
        for seconds in options.segment_seconds:
            encoder = SegmentEncoder(model, processor, SegmentRule(seconds, options.overlap))
            every: dict[str, list[list[float]]] = {}
            for path, stories in zip(paths, films, strict=True):
                for way, found in measure(path, stories, encoder, processor).items():
                    every.setdefault(way, []).extend(found)
            for way, found in every.items():
                right, overlap, far = np.mean(found, axis=0).round(3).tolist()
                result = {"segment_seconds": seconds, "way": way, "sentences": len(found)}
                results.append({**result, "right": right, "overlap": overlap, "far": far})
                print(results[-1], flush=True)
    answer = {"benchmark": "library_moments", "films": len(films), "overlap": options.overlap, "results": results}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
