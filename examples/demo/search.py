"""Search a set of videos by a paragraph, with nothing but a checkpoint folder: what a user of a Hub checkpoint does.

    python examples/demo/search.py outputs/demo/checkpoint outputs/demo/search.json

`search.json` holds `query` (a list of sentences), `videos` (name to file), `score`, and `expected` (the name that
should come first, or null). Prints the three best videos with the seconds where each sentence happens; writes
`search_result.json` and `alignment.png` beside the request.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoProcessor
from transformers.utils import logging

import lfvila_hf  # noqa: F401  # registers LF-VILA with the Auto classes
from lfvila_hf import encode_paragraphs, encode_videos
from lfvila_hf.processing_lfvila import merge_sentences
from lfvila_hf.search.plots import plot_alignment


def main(checkpoint: str, request_file: str) -> int:
    """Load, embed, rank, print."""
    logging.set_verbosity_error()  # the heads of pre-training are left out on purpose
    logging.disable_progress_bar()
    request = json.loads(Path(request_file).read_text())
    names, query = list(request["videos"]), request["query"]

    model = AutoModel.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    text = encode_paragraphs(model, processor, [query])
    videos = encode_videos(model, processor, [request["videos"][name] for name in names], batch_size=32, num_workers=2)
    scores = model.similarity(text, videos, score=request["score"])[0]
    order = scores.argsort(descending=True).tolist()

    # A paragraph longer than the model's number of sentences was joined; its parts are what has a place in time.
    sentences = merge_sentences(query, processor.max_sentences)
    print(f"\nquery: {' '.join(query)}")
    best = []
    for rank, index in enumerate(order[:3], start=1):
        pair = {
            "sentence_embeds": text.sentence_embeds,
            "sentence_mask": text.sentence_mask,
            "clip_embeds": videos.clip_embeds[index : index + 1],
        }
        moments = processor.post_process_alignment(pair, [videos.metadata[index]])[0]
        best.append({"video": names[index], "score": scores[index].item(), "moments": [m._asdict() for m in moments]})
        mark = "  <- the video it was written for" if names[index] == request["expected"] else ""
        print(f"{rank}. {names[index]}  {request['score']} score {scores[index]:.3f}{mark}")
        for moment in moments:
            print(f"     {moment.start:5.1f} - {moment.end:5.1f} s  {sentences[moment.sentence]}")

    first = order[0]
    metadata = videos.metadata[first]
    clips = videos.clip_embeds.shape[1]
    starts = metadata.timestamps[:: len(metadata.timestamps) // clips]
    plot_alignment(
        torch.einsum("md,kd->mk", text.sentence_embeds[0, : len(sentences)], videos.clip_embeds[first]),
        sentences,
        [*starts, metadata.duration],
        [round(starts.index(moment["start"])) for moment in best[0]["moments"]],
        Path(request_file).with_name("alignment.png"),
        title=f"{names[first]}: which clip matches which sentence",
    )
    expected = request["expected"]
    result = {
        "expected": expected,
        "rank_of_expected": order.index(names.index(expected)) + 1 if expected in names else None,
        "num_videos": len(names),
        "best": best,
    }
    Path(request_file).with_name("search_result.json").write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main(*sys.argv[1:3]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
