"""What a conversion did, in numbers and words: every key accounted for, and whether the clip projection was trained.

The released pre-training overwrites the clip-level map before MTC reads it, so the layer that makes it
(`local_feat_proj`) gets no gradient and stays as it was initialised: a copy of Swin's third merging layer. Whether that
is so for a given file can be seen by comparing the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from lfvila_hf.configuration_lfvila import LFVilaConfig
from lfvila_hf.conversion.released import MappedCheckpoint, kind_of_checkpoint

CLIP_PROJECTION = "video_encoder.local_feat_proj"
MERGING_PARAMETERS = ("norm.weight", "norm.bias", "reduction.weight")
# Keys of one reason that the report spells out; beyond, their number has to do.
SPELT_OUT = 4


@dataclass
class ConversionReport:
    """Account of one conversion; `str()` of it is what the command prints."""

    source: str
    task: str
    model_class: str
    checkpoint_kind: str | None
    """Task that the checkpoint was trained for, as far as its keys tell."""
    checkpoint_parameters: int
    """Numbers in the checkpoint, without constants (position ids and the like)."""
    parameters: int
    """Numbers in the model that was written."""
    dtype: str
    parts: dict[str, int]
    """Part of the model -> its number of parameters."""
    left_out: dict[str, list[str]]
    """Reason -> released keys that were left out for it."""
    new: dict[str, list[str]]
    """Part -> parameters of it that the checkpoint lacked."""
    from_bert: list[str]
    """Those of them that came from BERT."""
    clip_projection: str
    """Whether the clip-level projection was ever trained, in words."""
    notes: list[str] = field(default_factory=list)
    output_dir: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        kind = self.checkpoint_kind or "unknown"
        lines = [
            f"checkpoint     {self.source}",
            f"               {self.checkpoint_parameters:,} parameters, trained for: {kind}",
            f"model          {self.model_class} ({self.task}), {self.parameters:,} parameters in {self.dtype}",
        ]
        lines += [f"  {part:<22} {count:>13,}" for part, count in self.parts.items()]
        lines.append("left out" if self.left_out else "left out       nothing")
        lines += [f"  {len(keys):>4} {reason}: {_spelt(keys)}" for reason, keys in self.left_out.items()]
        lines.append("new, not in the checkpoint" if self.new else "new            nothing")
        from_bert = set(self.from_bert)
        for part, names in self.new.items():
            taken = sum(name in from_bert for name in names)
            origin = f"{taken} of them from BERT" if taken else "from random numbers"
            lines.append(f"  {len(names):>4} {part.rstrip('.')} ({origin}): {_spelt(names)}")
        lines.append(f"clip projection {self.clip_projection}")
        lines += [f"note           {note}" for note in self.notes]
        if self.output_dir:
            lines.append(f"written to     {self.output_dir}")
        return "\n".join(lines)


def report_on(
    mapped: MappedCheckpoint,
    released: Mapping[str, torch.Tensor],
    config: LFVilaConfig,
    source: str,
    task: str,
    model_class: str,
    dtype: str,
    swin: Mapping[str, torch.Tensor] | None = None,
) -> ConversionReport:
    """The account of a conversion.

    Args:
        mapped: What `map_checkpoint` returned.
        released: The released state dict.
        config: Our configuration of it.
        source: The file, as a person would name it.
        task: One of `TASKS`.
        model_class: Name of the class that was written.
        dtype: Dtype that was written.
        swin: The 2-D Swin that pre-training started from (`read_swin`), to compare the clip projection with.
    """
    parts: dict[str, int] = {}
    for name, tensor in mapped.state.items():
        part = name.removeprefix("model.").partition(".")[0]
        parts[part] = parts.get(part, 0) + tensor.numel()
    return ConversionReport(
        source=source,
        task=task,
        model_class=model_class,
        checkpoint_kind=kind_of_checkpoint(released),
        checkpoint_parameters=sum(tensor.numel() for tensor in released.values() if tensor.is_floating_point()),
        parameters=sum(parts.values()),
        dtype=dtype,
        parts=parts,
        left_out=mapped.left_out,
        new=mapped.new,
        from_bert=mapped.from_bert,
        clip_projection=clip_projection_verdict(released, config, swin),
        notes=_notes(released),
    )


def clip_projection_verdict(
    released: Mapping[str, torch.Tensor], config: LFVilaConfig, swin: Mapping[str, torch.Tensor] | None = None
) -> str:
    """Say whether the clip-level projection of a released checkpoint was ever trained.

    Args:
        released: The released state dict.
        config: Our configuration of it.
        swin: The 2-D Swin that pre-training started from (`read_swin`). Without it the projection is compared with the
            last merging layer of the checkpoint itself, which started from the same numbers and then learned: equal
            proves that neither moved, different proves nothing.
    """
    keys = [f"{CLIP_PROJECTION}.{name}" for name in MERGING_PARAMETERS]
    if any(key not in released for key in keys) or not config.video_config.merge_after:
        return "is not in the checkpoint"
    projection = [released[key] for key in keys]
    if bool(projection[0].eq(1).all()) and bool(projection[1].eq(0).all()):
        return "was never trained: its LayerNorm is as it was created (weight 1, bias 0)"
    if swin is not None:
        last = max(key.partition(".downsample.")[0] for key in swin if ".downsample." in key)
        distance = _distance(projection, [swin.get(f"{last}.downsample.{name}") for name in MERGING_PARAMETERS])
        if distance == 0:
            return "was never trained: it equals Swin's last merging layer (to float16)"
        return f"was trained: it differs from Swin's last merging layer by up to {distance:.3g}"
    level = config.video_config.merge_after[-1]
    prefix = f"video_encoder.layers.{level}.downsample"
    if _distance(projection, [released.get(f"{prefix}.{name}") for name in MERGING_PARAMETERS]) == 0:
        return f"was never trained: it equals the merging after level {level}, which started from the same Swin layer"
    return (
        f"differs from the merging after level {level}, which started from the same Swin layer; whether it was trained "
        "itself shows only against that Swin (--swin)"
    )


def _distance(first: list[torch.Tensor], second: list[torch.Tensor | None]) -> float:
    """Largest difference after rounding to float16, in which released files are; infinite where shapes differ."""
    distance = 0.0
    for a, b in zip(first, second, strict=True):
        if b is None or a.shape != b.shape:
            return float("inf")
        distance = max(distance, float((a.half().float() - b.half().float()).abs().max()))
    return distance


def _notes(released: Mapping[str, torch.Tensor]) -> list[str]:
    """What is odd about a checkpoint without being wrong."""
    notes = []
    twice = [released.get(f"text_encoder.cls.predictions.{name}") for name in ("bias", "decoder.bias")]
    if twice[0] is not None and twice[1] is not None and not torch.equal(twice[0], twice[1]):
        notes.append("the two copies of the MLM bias differ; the decoder's was taken, as the released code does")
    if len({tensor.dtype for tensor in released.values() if tensor.is_floating_point()}) > 1:
        notes.append("the checkpoint mixes dtypes; all was written in the widest of them")
    return notes


def _spelt(keys: list[str]) -> str:
    """A few keys by name."""
    rest = len(keys) - SPELT_OUT
    return ", ".join(keys[:SPELT_OUT]) + (f" and {rest} more" if rest > 0 else "")
