"""Peak memory and time of converting a released-size phase-two checkpoint (461.5 M parameters, random, float16).

Writes a checkpoint of about 0.92 GB into a temporary folder, converts it in a process of its own with
`lfvila_hf.conversion.convert_checkpoint`, and compares the peak resident memory of that process with the size of the
file. The same process without a conversion (imports alone) is the floor.

    python benchmarks/conversion_memory.py

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def write_inputs(folder: Path) -> Path:
    """Write a random released checkpoint and its configuration; returns the checkpoint."""
    import torch
    from released_layout import example_original, random_state
    from transformers import BertTokenizer

    original = example_original(stage=2)
    checkpoint = folder / "lfvila_stage2.bin"
    torch.save(random_state(original, "pretraining", torch.float16), checkpoint)
    (folder / "pretrain_stage2.yaml").write_text(json.dumps(original), encoding="utf-8")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder / "tokenizer")
    return checkpoint


def convert(folder: Path) -> dict[str, float]:
    """Convert in this process; returns its peak resident memory in bytes and the seconds taken."""
    from lfvila_hf.conversion import convert_checkpoint

    floor = peak_bytes()
    start = time.perf_counter()
    convert_checkpoint(
        folder / "lfvila_stage2.bin",
        folder / "pretrain_stage2.yaml",
        "pretraining",
        folder / "converted",
        tokenizer=str(folder / "tokenizer"),
    )
    return {"seconds": time.perf_counter() - start, "peak_bytes": peak_bytes(), "imports_bytes": floor}


def peak_bytes() -> int:
    """Peak resident memory of this process so far (mapped parts of the checkpoint count)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Write, convert in a new process, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--convert", metavar="FOLDER", help="used by the script itself: convert in this process")
    options = parser.parse_args()
    if options.convert:
        print(json.dumps(convert(Path(options.convert))))
        return
    with tempfile.TemporaryDirectory() as name:
        # In a process of its own too: its peak would be inherited by a child that is started from here.
        program = f"import sys; sys.path[:0] = {sys.path!r}; import conversion_memory as m, pathlib; "
        program += f"m.write_inputs(pathlib.Path({name!r}))"
        subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent)
        size = (Path(name) / "lfvila_stage2.bin").stat().st_size
        run = [sys.executable, __file__, "--convert", name]
        answer = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout
        measured = json.loads(answer.splitlines()[-1])
        written = sum(path.stat().st_size for path in (Path(name) / "converted").glob("*.safetensors"))
    ratio, mib = measured["peak_bytes"] / size, 2**20
    print(f"checkpoint {size / mib:,.0f} MiB, written {written / mib:,.0f} MiB")
    print(
        f"peak       {measured['peak_bytes'] / mib:,.0f} MiB, imports alone {measured['imports_bytes'] / mib:,.0f} MiB"
    )
    print(f"ratio      {ratio:.2f} x the checkpoint, {measured['seconds']:.1f} s")
    print(json.dumps({"benchmark": "conversion_memory", "checkpoint_bytes": size, "ratio": ratio, **measured}))


if __name__ == "__main__":
    main()
