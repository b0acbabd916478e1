# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Manifest of an exported folder: version stamp, sizes that the graphs take, size and checksum of their files.

Letters: T frames, K clips.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

MANIFEST = "export.json"
FORMAT = 1
"""Version of the layout of the folder and of the inputs and outputs of the graphs."""
ENGINES = {"onnx": ".onnx", "openvino": ".xml"}
"""Engines with the suffix of their graphs."""
PRECISIONS = ("float32", "float16", "int8")
TOWERS = {
    "video": ("pixel_values_videos", "video_embeds", "clip_embeds"),
    "text": ("input_ids", "attention_mask", "text_embeds", "sentence_embeds"),
}
"""Towers with the names of the inputs and outputs of their graphs; clip and sentence embeddings may be missing."""


@dataclass(frozen=True)
class Manifest:
    """Manifest of an exported folder.

    Args:
        engine: "onnx" or "openvino".
        precision: "float32", "float16" (weights are stored in it) or "int8" (matrix products run in it).
        frames_multiple: T must be a multiple of it; or it is the only T that the video graph takes, if `frames_fixed`.
        frames_fixed: Whether the number of frames is fixed.
        files: Name, bytes and SHA-256 of each file of the graphs, and of the configuration.
        lfvila_hf: Version of this package that exported.
        engine_version: Version of the package that wrote the graphs.
        format: Version of the layout. Defaults to the current one.
    """

    engine: str
    precision: str
    frames_multiple: int
    frames_fixed: bool
    files: dict[str, dict[str, Any]]
    lfvila_hf: str
    engine_version: str
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write the manifest into the folder of the graphs."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def check_files(self, folder: Path) -> None:
        """Compare the files with the manifest.

        Raises:
            ValueError: A file is missing, or has another size or content.
        """
        for name, expected in self.files.items():
            path = folder / name
            if not path.is_file():
                raise ValueError(f"the exported folder {folder} is damaged: {name} is missing. Export again")
            found = describe_file(path, expected.get("bytes"))
            if found != expected:
                raise ValueError(
                    f"the exported folder {folder} is damaged: {name} has {found['bytes']} bytes and SHA-256 "
                    f"{found['sha256'] or 'not computed'}, expected {expected.get('bytes')} and "
                    f"{expected.get('sha256')}. Export again"
                )

    def digest(self) -> bytes:
        """Compute a SHA-256 over the manifest, and so over the graphs."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()


def describe_file(path: Path, expected_bytes: int | None = None) -> dict[str, Any]:
    """Return size and SHA-256 of a file; the SHA-256 is empty if the size is not the expected one."""
    size = path.stat().st_size
    if expected_bytes is not None and size != expected_bytes:
        return {"bytes": size, "sha256": ""}
    with open(path, "rb") as file:
        return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def is_exported(folder: Any) -> bool:
    """Whether a folder is one that `lfvila-hf export` wrote."""
    return Path(folder, MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an exported folder, without looking at the graphs.

    Raises:
        ValueError: There is none, it cannot be read, or it is of another version.
    """
    if not is_exported(folder):
        raise ValueError(
            f"{folder} is no exported folder: it has no {MANIFEST}. `lfvila-hf export CHECKPOINT` makes one"
        )
    try:
        values = json.loads((folder / MANIFEST).read_text("utf-8"))
        version = values["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the exported folder {folder} is damaged: {MANIFEST} cannot be read. Export again") from error
    if version != FORMAT:
        raise ValueError(
            f"{folder} is an export of format {version} (lfvila_hf {values.get('lfvila_hf', 'unknown')}), this version "
            f"reads format {FORMAT}. Export the checkpoint again"
        )
    names = {field.name for field in fields(Manifest)}
    wrong = sorted(names ^ set(values)) or [
        name for name, known in (("engine", ENGINES), ("precision", PRECISIONS)) if values[name] not in known
    ]
    if wrong or not isinstance(values["files"], dict):
        raise ValueError(f"the exported folder {folder} is damaged: {MANIFEST} has wrong fields {wrong}. Export again")
    return Manifest(**values)
