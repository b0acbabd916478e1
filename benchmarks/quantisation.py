"""int8 dynamic quantisation on a CPU, bfloat16 by autocast and float32: time, size, and what happens to embeddings.

    python benchmarks/quantisation.py                                          # the tiny preset
    python benchmarks/quantisation.py --preset base --batch 1 --rounds 3       # the released size
    python benchmarks/quantisation.py --model FOLDER                           # weights that were trained

| row | what runs |
|---|---|
| `fp32` | `LFVilaModel` as it is |
| `int8` | every `nn.Linear` replaced by PyTorch's dynamic int8 layer: weights per tensor, inputs per call |
| `bf16` | autocast to bfloat16, as `encode_videos(dtype=torch.bfloat16)` does |

Both towers are timed, interleaved. Embeddings are compared with those of `fp32`: the smallest cosine of a pair, and how
far the embeddings of *different* inputs are apart (their largest cosine): an error matters only where it is not small
against that. Random weights, the default, put different inputs close together; use a trained model to judge.

PyTorch calls this quantiser deprecated in favour of torchao, which is no dependency here.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import statistics
import warnings
from typing import Any

import torch
from measuring import Part, finish, make_parser, print_table, ratio, read_options, record, time_rounds
from torch import nn
from torch.nn import functional as F

from lfvila_hf import LFVilaConfig, LFVilaModel

ROWS = ("fp32", "int8", "bf16")
SENTENCE_LENGTH = 50


def make_model(options: argparse.Namespace) -> LFVilaModel:
    """Trained weights where a folder is given, else random ones."""
    torch.manual_seed(0)
    if options.model:
        return LFVilaModel.from_pretrained(options.model).eval()
    return LFVilaModel(getattr(LFVilaConfig, options.preset)()).eval()


def quantised(model: nn.Module) -> nn.Module:
    """A copy whose linear layers compute in int8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation, said in the docstring
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def size_mb(model: nn.Module) -> float:
    """Size of a model's state as PyTorch would save it, in MiB."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(model.state_dict(), buffer)
    return buffer.tell() / 2**20


def make_parts(models: dict[str, Any], config: Any, options: argparse.Namespace) -> dict[str, dict[str, Part]]:
    """Per side, what every row runs; each returns its embeddings `(B, D)`."""
    generator = torch.Generator().manual_seed(1)
    video = config.video_config
    shape = (options.batch, video.num_frames, video.num_channels, *video.image_size)
    pixels = torch.randn(shape, generator=generator)  # (B, T, 3, H, W)
    words = (options.batch, config.num_clips, SENTENCE_LENGTH)
    ids = torch.randint(5, config.text_config.vocab_size, words, generator=generator)  # (B, M, L)

    def part(row: str, side: str) -> Part:
        @torch.no_grad()
        def run() -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=row == "bf16"):
                if side == "video":
                    return models[row].get_video_features(pixels, return_dict=True).video_embeds.float()
                return models[row].get_text_features(ids, return_dict=True).text_embeds.float()

        return run

    return {side: {row: part(row, side) for row in ROWS} for side in ("video", "text")}


def compare(found: torch.Tensor, exact: torch.Tensor) -> dict[str, float | None]:
    """Smallest cosine with the exact embedding, and the largest one between embeddings of different inputs."""
    same = F.cosine_similarity(found, exact).min().item()
    others = (exact @ exact.T).fill_diagonal_(-2).max().item() if len(exact) > 1 else None
    return {"least_cosine": same, "cosine_of_others": others}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--preset", choices=["tiny", "base"], default="tiny", help="size of the model")
    parser.add_argument("--model", help="folder of a trained LFVilaModel, in place of random weights")
    parser.add_argument("--batch", type=int, default=2, help="videos, and paragraphs, in a batch")
    options = read_options(parser, arguments, "batch")
    if options.device != "cpu":
        parser.error("int8 dynamic quantisation runs on a CPU only")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object."""
    options = parse_arguments(arguments)
    model = make_model(options)
    models = {"fp32": model, "int8": quantised(model), "bf16": model}
    sizes = {row: size_mb(one) for row, one in models.items()}
    rows: dict[str, dict[str, Any]] = {row: {"size_mb": sizes[row]} for row in ROWS}
    for side, parts in make_parts(models, model.config, options).items():
        exact = parts["fp32"]()
        seconds = time_rounds(parts, options.rounds)
        for row in ROWS:
            found = {"seconds": statistics.median(seconds[row]), "x_fp32": ratio(seconds, row, "fp32")}
            rows[row][side] = found | compare(parts[row](), exact) | {"rounds": seconds[row]}
    columns = ["x_fp32", "seconds", "least_cosine", "cosine_of_others"]
    for side in ("video", "text"):
        print_table(
            [side, *columns, "size MiB"],
            ([row, *(one[side][column] for column in columns), one["size_mb"]] for row, one in rows.items()),
        )
        print()
    finish(record("quantisation", options, rows=rows), options)


if __name__ == "__main__":
    main()
