"""Read one recorded case: tensors and settings of a tiny model that was run through the released implementation.

A case is `cases/NAME.safetensors` beside `cases/NAME.json`. Its tensors are `state.*` (released parameter names),
`in.*` and `out.*` (eval mode, float32, CPU). Cases of one folder share their pixels, which lie in
`pixels.safetensors` there. Pixels are stored as one number per 8 x 8 patch (`pixel_low`) and the pattern that each
patch shows (`pixel_pattern`).

`recorded_cases` also finds the cases that are not kept here, if the folder of the full collection is present.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

KEPT = Path(__file__).parent / "cases"
# The full collection, beside the repository where it is present at all.
COLLECTION = Path(__file__).resolve().parents[3] / "shared" / "parity"
TASKS = {
    "stage1": "pretraining",
    "stage2": "pretraining",
    "retrieval": "retrieval",
    "qa_classification": "question_answering",
    "qa_classification_subtitles": "question_answering",
    "multiple_choice": "multiple_choice",
    "video_classification": "video_classification",
}


@dataclass
class Case:
    """One recorded case."""

    name: str
    settings: dict[str, Any]
    state: dict[str, torch.Tensor]
    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    groups: dict[str, dict[str, torch.Tensor]]
    """Tensors by the first part of their name, for cases that are no run of a model."""

    @property
    def task(self) -> str:
        return TASKS[self.name.rpartition("/")[2]]

    @property
    def original(self) -> dict[str, Any]:
        """Return the parts of a released YAML that describe the case's model."""
        spec = self.settings["spec"]
        return {
            "VideoEncoder": self.settings["video"],
            "bert_config": self.settings["bert"],
            "stage": 2 if self.name.endswith("stage2") else 1,
            "type_vocab_size": 8,
            "num_local_layers": spec["local_layers"],
            "stage1_layers": spec["stage1_layers"],
            "final_num_patches": spec["final_num_patches"],
            "DATA": {
                "sample_frame": spec["frames"],
                "sample_clip": spec["clips"],
                "input_res": spec["size"],
                "classification_labels": spec["labels"],
            },
            "TRAINING": self.settings.get("training", {}),
        }


def load_case(name: str, folder: Path = KEPT) -> Case:
    """Read the case `name`, such as "tiny_192x320x32/stage1"."""
    path = folder / name
    settings = json.loads(path.with_suffix(".json").read_text("utf-8"))
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(path.with_suffix(".safetensors")).items():
        group, _, rest = key.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    inputs = groups.get("in", {})
    if inputs:
        if "pixel_low" not in inputs:
            shared = load_file(path.parent / "pixels.safetensors")
            inputs |= {key.removeprefix("in."): tensor for key, tensor in shared.items()}
        low, pattern = inputs.pop("pixel_low"), inputs.pop("pixel_pattern")
        inputs["pixel_values_videos"] = unpacked_pixels(low, pattern, *settings["spec"]["size"])
    return Case(name, settings, groups.get("state", {}), inputs, groups.get("out", {}), groups)


def unpacked_pixels(low: torch.Tensor, pattern: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Unpack pixels `(B, T, 3, H, W)` from patch numbers `(B, 3, T, h, w)` and the pattern of a patch `(3, 8, 8)`."""
    patches = low[..., None, :, None] * pattern[:, None, None, :, None, :]  # (B, 3, T, h, 8, w, 8)
    pixels = patches.flatten(5, 6).flatten(3, 4)[..., :height, :width]  # (B, 3, T, H, W)
    return pixels.transpose(1, 2).contiguous()


def recorded_cases() -> list[tuple[str, Path]]:
    """List every run of a model that can be read here, as name and folder; kept ones from our own copies."""
    found = {f"{path.parent.name}/{path.stem}": KEPT for path in sorted(KEPT.glob("*/*.json"))}
    for path in sorted(COLLECTION.glob("*/*.json")) if COLLECTION.is_dir() else ():
        found.setdefault(f"{path.parent.name}/{path.stem}", COLLECTION)
    return sorted(found.items())
