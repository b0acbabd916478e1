"""Time of a contrastive step with and without gradient caching.

    python benchmarks/contrastive_time.py                                              # tiny model, a minute
    python benchmarks/contrastive_time.py --preset base --batch 2 --chunk 1 --rounds 3 --without-whole

| way | what runs |
|---|---|
| `cached` | `contrastive_chunk_size`: every chunk without a graph, the loss, every chunk with a graph |
| `accumulated` | the same chunks, each a contrast of its own: the videos once, nothing cached |
| `encoded` | the same chunks without a graph and without a loss: what caching adds, but for the last chunk |
| `whole` | the undivided batch, where it fits into memory (`--without-whole` where it does not) |

All but `encoded` are a forward and a backward of `LFVilaModel` in training mode (stochastic depth, dropout of the text
tower), of the same videos with K sentences. They take turns, ratios are medians of each round's ratio:
`cached / accumulated` is what caching costs, `accumulated / whole` what cutting the batch costs, `cached / whole` both.
The last chunk's graph is kept from the first pass, so with n chunks (n - 1) / n of the videos are encoded twice;
`for_many_chunks`, `encoded / accumulated`, is the overhead with that share taken as one: that of a batch of any size.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring import (
    Part,
    computing_in,
    finish,
    make_parser,
    print_table,
    ratio,
    read_options,
    record,
    time_rounds,
)

from lfvila_hf import LFVilaConfig, LFVilaModel
from lfvila_hf.loss_lfvila import LFVilaLoss, draw_mtc
from lfvila_hf.training.global_batch_losses import GlobalBatch, cached_backward, contrastive_shares, split_inputs

SENTENCE_LENGTH = 50


def make_inputs(config: LFVilaConfig, batch: int, device: str) -> dict[str, torch.Tensor]:
    """Random paragraphs of K sentences and videos."""
    video, generator = config.video_config, torch.Generator().manual_seed(1)
    length = min(SENTENCE_LENGTH, config.text_config.max_position_embeddings // config.num_clips)
    ids = torch.randint(5, config.text_config.vocab_size, (batch, config.num_clips, length), generator=generator)
    pixels = torch.randn(batch, video.num_frames, video.num_channels, *video.image_size, generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}
    return {name: value.to(device) for name, value in inputs.items()}


def make_ways(options: argparse.Namespace) -> dict[str, Part]:
    """A step in every way, over one model."""
    config: LFVilaConfig = getattr(LFVilaConfig, options.preset)()
    torch.manual_seed(0)
    model = LFVilaModel(config).train().to(options.device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    inputs = make_inputs(config, options.batch, options.device)
    criterion = LFVilaLoss(config)

    def loss_of(rows: int) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
        draw = draw_mtc(
            rows, config.num_clips, config.num_anchors, config.num_candidates, seed=2, device=options.device
        )
        return lambda features: criterion.total(contrastive_shares(criterion, features, draw, GlobalBatch((rows,))))

    def step(chunks: list[dict[str, Any]]) -> None:
        rows = sum(len(chunk["input_ids"]) for chunk in chunks)
        with computing_in(options):
            cached_backward(partial(model, return_loss=False), chunks, loss_of(rows))

    chunks = split_inputs(inputs, -(-options.batch // options.chunk))

    def accumulated() -> None:
        for chunk in chunks:
            step([chunk])

    def encoded() -> None:
        with torch.no_grad(), computing_in(options):
            for chunk in chunks:
                model(**chunk, return_loss=False)

    ways: dict[str, Part] = {"cached": partial(step, chunks), "accumulated": accumulated, "encoded": encoded}
    return ways if options.without_whole else {**ways, "whole": partial(step, [inputs])}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every way in every round, and what they say."""
    seconds = time_rounds(make_ways(options), options.rounds, options.device)
    found = {
        "seconds": seconds,
        "chunks": -(-options.batch // options.chunk),
        "of_caching": ratio(seconds, "cached", "accumulated") - 1,
        "for_many_chunks": ratio(seconds, "encoded", "accumulated"),
    }
    if "whole" in seconds:
        found["of_cutting"] = ratio(seconds, "accumulated", "whole") - 1
        found["over_whole"] = ratio(seconds, "cached", "whole") - 1
    return found


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--preset", choices=["tiny", "base"], default="tiny", help="size of the model")
    parser.add_argument("--batch", type=int, default=8, help="videos of the batch")
    parser.add_argument("--chunk", type=int, default=2, help="videos of a chunk")
    parser.add_argument("--without-whole", action="store_true", help="leave out the undivided batch")
    options = read_options(parser, arguments, "batch", "chunk")
    if options.chunk >= options.batch:
        parser.error(f"--chunk must be smaller than the batch of {options.batch}, got {options.chunk}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object."""
    options = parse_arguments(arguments)
    found = measure(options)
    medians = {name: statistics.median(values) for name, values in found["seconds"].items()}
    print_table(
        ["way", "median s", "s per video"],
        ([name, value, value / options.batch] for name, value in medians.items()),
    )
    print(
        f"\n{found['chunks']} chunks: caching takes {found['of_caching']:.0%} more time than the same chunks without, "
        f"{found['for_many_chunks']:.0%} for any number of chunks"
    )
    if "over_whole" in found:
        print(f"cutting the batch {found['of_cutting']:+.0%}, both together {found['over_whole']:+.0%}")
    finish(record("contrastive_time", options, **found), options)


if __name__ == "__main__":
    main()
