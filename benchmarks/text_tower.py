"""Cost of padding in the text tower: sentences padded to 50 tokens against sentences of 50 real tokens.

    python benchmarks/text_tower.py                                            # the tiny preset
    python benchmarks/text_tower.py --preset base --batch 8 --rounds 5         # the released size
    python benchmarks/text_tower.py --preset base --batch 64 --device cuda --dtype bf16 --training

| row | what runs |
|---|---|
| `full` | B paragraphs of M sentences of L tokens, none of them padding |
| `padded` | the same shape with real lengths: a quarter of the tokens real in the mean |
| `cut` | the padded batch with L cut to its longest sentence (other positions, so other numbers: a lower bound) |
| `floor` | only the real tokens, all of them in one sentence batch of the mean length: what costs nothing for padding |

`padded / full` is 1 where padding is paid for and near the share of real tokens where it is not. Lengths are those of
32.5 words per paragraph (the mean of the training corpus), drawn evenly from 4 to 21 tokens. Rounds are interleaved,
ratios are medians of each round's.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
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

from lfvila_hf import LFVilaConfig, LFVilaTextModel

ROWS = ("full", "padded", "cut", "floor")
LENGTHS = (4, 21)
"""Fewest and most tokens of a sentence, `[CLS]` and `[SEP]` included."""


def make_batch(row: str, options: argparse.Namespace, vocabulary: int) -> dict[str, torch.Tensor]:
    """Ids and mask `(B, M, L)` of a row."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, options.sentences, options.length)
    longest = min(LENGTHS[1], options.length)
    lengths = torch.randint(min(LENGTHS[0], longest), longest + 1, shape[:2], generator=generator)  # (B, M)
    ids = torch.randint(5, vocabulary, shape, generator=generator)
    mask = (torch.arange(options.length) < lengths[..., None]).long()
    if row == "full":
        mask = torch.ones_like(ids)
    elif row == "cut":
        ids, mask = ids[..., : int(lengths.max())], mask[..., : int(lengths.max())]
    elif row == "floor":
        mean = max(round(float(lengths.float().mean())), 1)
        ids = ids[..., :mean]
        mask = torch.ones_like(ids)
    return {"input_ids": (ids * mask).to(options.device), "attention_mask": mask.to(options.device)}


def make_part(row: str, model: LFVilaTextModel, options: argparse.Namespace) -> Part:
    """One pass of the text tower over a row's batch."""
    inputs = make_batch(row, options, model.config.vocab_size)

    def forward() -> None:
        with torch.no_grad(), computing_in(options):
            model(**inputs)

    def forward_and_backward() -> None:
        model.zero_grad(set_to_none=True)
        with computing_in(options):
            output = model(**inputs)
        (output.pooler_output.sum() + output.sentence_hidden_state.sum()).backward()

    return forward_and_backward if options.training else forward


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--preset", choices=["tiny", "base"], default="tiny", help="size of the model")
    parser.add_argument("--batch", type=int, default=8, help="paragraphs")
    parser.add_argument("--sentences", type=int, default=4, help="M")
    parser.add_argument("--length", type=int, default=50, help="L")
    parser.add_argument("--training", action="store_true", help="forward and backward")
    return read_options(parser, arguments, "batch", "sentences", "length")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object."""
    options = parse_arguments(arguments)
    torch.manual_seed(0)
    config = getattr(LFVilaConfig, options.preset)().text_config
    model = LFVilaTextModel(config).train(options.training).to(options.device)
    seconds = time_rounds({row: make_part(row, model, options) for row in ROWS}, options.rounds, options.device)
    real = float(make_batch("padded", options, config.vocab_size)["attention_mask"].float().mean())
    rows: dict[str, dict[str, Any]] = {
        row: {"x_full": ratio(seconds, row, "full"), "seconds": statistics.median(seconds[row]), "rounds": seconds[row]}
        for row in ROWS
    }
    print(f"{options.batch} x {options.sentences} x {options.length} tokens, {100 * real:.0f} % of them real\n")
    print_table(["row", "x full", "seconds"], ([row, one["x_full"], one["seconds"]] for row, one in rows.items()))
    finish(record("text_tower", options, real_tokens=real, rows=rows), options)


if __name__ == "__main__":
    main()
