"""Time of `lfvila-hf index` by part: decoding, the model, thumbnails, writing, finishing.

    python benchmarks/search_index.py --videos FOLDER --model NAME

A new index is made in a temporary folder. The last line is one JSON object; `decode_and_model` is their part of the
whole.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import finish, make_parser, record

from lfvila_hf.search import load_encoder
from lfvila_hf.search.indexing import index_folder


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    parser = make_parser(__doc__, rounds=1)
    parser.add_argument("--videos", required=True, help="folder of videos")
    parser.add_argument("--model", required=True, help="model, as for `lfvila-hf index`")
    parser.add_argument("--workers", type=int, default=1, help="videos decoded ahead at the same time")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    encoder = load_encoder(options.model)
    with tempfile.TemporaryDirectory() as folder:
        report = index_folder(options.videos, Path(folder) / "index", encoder, num_workers=options.workers)
    assert report is not None
    seconds = {name: round(value, 3) for name, value in report.seconds.items()}
    whole = seconds["total"] + seconds["finish"]
    part = (seconds["decode"] + seconds["model"]) / whole
    results = {
        "videos": report.videos,
        "segments": report.segments,
        "seconds": seconds,
        "decode_and_model": round(part, 3),
    }
    answer = record(Path(__file__).stem, options, **results)
    finish(answer, options)
    return answer


if __name__ == "__main__":
    main()
