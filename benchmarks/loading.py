"""Time of importing the package and of loading a checkpoint, in fresh processes.

    python benchmarks/loading.py                                   # the tiny preset
    python benchmarks/loading.py --preset base --rounds 3          # the released size: 461.5 M parameters

| row | what a fresh process does |
|---|---|
| `python` | nothing |
| `torch` | `import torch` |
| `transformers` | `import transformers` (torch besides) |
| `package` | `import lfvila_hf` |
| `model` | `from lfvila_hf import LFVilaForPreTraining` |
| `load` | the same, and `from_pretrained` of a float32 checkpoint |
| `load_bf16` | the same with `dtype=torch.bfloat16` |
| `bytes` | reads the checkpoint's file and nothing else: the floor of loading |

A process's time is that of the whole process, interpreter included, files in the page cache (one round of warm-up).
`peak` is its peak memory. Rounds are interleaved; differences and ratios are medians over rounds.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import finish, make_parser, print_table, ratio, read_options, record, time_rounds

from lfvila_hf import LFVilaConfig, LFVilaForPreTraining

MODEL = "from lfvila_hf import LFVilaForPreTraining"
PROGRAMS = {
    "python": "pass",
    "torch": "import torch",
    "transformers": "import torch, transformers",
    "package": "import lfvila_hf",
    "model": MODEL,
    "load": f"{MODEL}; LFVilaForPreTraining.from_pretrained(folder)",
    "load_bf16": f"import torch; {MODEL}; LFVilaForPreTraining.from_pretrained(folder, dtype=torch.bfloat16)",
    "bytes": "open(folder + '/model.safetensors', 'rb').read()",
}
PROLOGUE = "import sys; sys.path.insert(0, sys.argv[1]); folder = sys.argv[2]\n"
EPILOGUE = """
import json
from measuring import peak_rss_mb
print(json.dumps({"peak_mb": peak_rss_mb()}))
"""


def run(name: str, folder: str, with_peak: bool = False) -> str:
    """Run a row's program in a fresh process; what it printed."""
    program = PROLOGUE + PROGRAMS[name] + (EPILOGUE if with_peak else "")
    command = [sys.executable, "-W", "ignore", "-c", program, str(Path(__file__).parent), folder]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--preset", choices=["tiny", "base"], default="tiny", help="size of the checkpoint")
    return read_options(parser, arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object."""
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        LFVilaForPreTraining(getattr(LFVilaConfig, options.preset)()).save_pretrained(folder)
        size = (Path(folder) / "model.safetensors").stat().st_size
        parts = {name: (lambda name=name: run(name, folder)) for name in PROGRAMS}
        seconds = time_rounds(parts, options.rounds)
        peaks = {
            name: json.loads(run(name, folder, with_peak=True).splitlines()[-1])["peak_mb"]
            for name in ("load", "load_bf16")
        }
    rows: dict[str, dict[str, Any]] = {
        name: {"seconds": statistics.median(all_of), "rounds": all_of, "peak_mb": peaks.get(name)}
        for name, all_of in seconds.items()
    }
    over = {
        "package_over_transformers": ratio(seconds, "package", "transformers"),
        "seconds_to_load": _difference(seconds["load"], seconds["model"]),
        "seconds_to_load_bf16": _difference(seconds["load_bf16"], seconds["model"]),
        "seconds_to_read_the_file": _difference(seconds["bytes"], seconds["python"]),
    }
    print(f"a checkpoint of {size / 2**20:.0f} MiB\n")
    print_table(["row", "seconds", "peak MiB"], ([name, row["seconds"], row["peak_mb"]] for name, row in rows.items()))
    print()
    print_table(["derived", "value"], over.items())
    finish(record("loading", options, checkpoint_mb=size / 2**20, derived=over, rows=rows), options)


def _difference(longer: list[float], shorter: list[float]) -> float:
    return statistics.median(a - b for a, b in zip(longer, shorter, strict=True))


if __name__ == "__main__":
    main()
