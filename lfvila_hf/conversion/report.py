"""Report of a conversion: an account of every key, and whether the clip projection was trained.

The released pre-training overwrites the clip-level map before MTC reads it. The layer that makes the map
(`local_feat_proj`) then gets no gradient and stays as initialised: a copy of Swin's third merging layer. Comparing the
two shows whether that holds for a given file.
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
# Keys of one reason that the report lists; of the others it gives the number.
SPELT_OUT = 4


@dataclass
class ConversionReport:
    """Account of one conversion; `lfvila-hf convert` prints `str()` of it.

    Args:
        source: The checkpoint, as the caller named it.
        task: One of `TASKS`.
        model_class: Name of the class that was written.
        checkpoint_kind: Task that the checkpoint was trained for; `None` if its keys do not identify one.
        checkpoint_parameters: Number of parameters in the checkpoint, without constants such as position ids.
        parameters: Number of parameters in the model that was written.
        dtype: Dtype that was written.
        parts: Part of the model -> its number of parameters.
        left_out: Reason -> released keys that were left out for it.
        new: Part -> parameters of it that the checkpoint lacked.
        from_bert: New parameters that came from BERT.
        clip_projection: Sentence on whether the clip projection was ever trained.
        notes: Oddities that are no errors. Defaults to none.
        output_dir: Folder that was written. Defaults to none.
    """

    source: str
    task: str
    model_class: str
    checkpoint_kind: str | None
    checkpoint_parameters: int
    parameters: int
    dtype: str
    parts: dict[str, int]
    left_out: dict[str, list[str]]
    new: dict[str, list[str]]
    from_bert: list[str]
    clip_projection: str
    notes: list[str] = field(default_factory=list)
    output_dir: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for JSON."""
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
    """Build the report of a conversion.

    Args:
        mapped: Result of `map_checkpoint`.
        released: The released state dict.
        config: Our configuration of it.
        source: Name of the file for the report.
        task: One of `TASKS`.
        model_class: Name of the class that was written.
        dtype: Dtype that was written.
        swin: The 2-D Swin that pre-training started from (`read_swin`), see `clip_projection_verdict`.
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
    """Describe whether the clip projection of a released checkpoint was ever trained.

    Args:
        released: The released state dict.
        config: Our configuration of it.
        swin: The 2-D Swin that pre-training started from (`read_swin`). By default the projection is compared with the
            last merging layer of the checkpoint itself, which started from the same weights and was trained. If they
            are equal, neither was trained; a difference proves nothing.

    Returns:
        The end of a sentence that begins with "the clip projection".
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
    """Compute the largest difference after rounding to float16, as released; infinity if shapes differ."""
    distance = 0.0
    for a, b in zip(first, second, strict=True):
        if b is None or a.shape != b.shape:
            return float("inf")
        distance = max(distance, float((a.half().float() - b.half().float()).abs().max()))
    return distance


def _notes(released: Mapping[str, torch.Tensor]) -> list[str]:
    """List oddities of a checkpoint that are no errors."""
    notes = []
    twice = [released.get(f"text_encoder.cls.predictions.{name}") for name in ("bias", "decoder.bias")]
    if twice[0] is not None and twice[1] is not None and not torch.equal(twice[0], twice[1]):
        notes.append("the two copies of the MLM bias differ; the decoder's was taken, as the released code does")
    if len({tensor.dtype for tensor in released.values() if tensor.is_floating_point()}) > 1:
        notes.append("the checkpoint mixes dtypes; all was written in the widest of them")
    return notes


def _spelt(keys: list[str]) -> str:
    """Join the first keys by comma, and count the others."""
    rest = len(keys) - SPELT_OUT
    return ", ".join(keys[:SPELT_OUT]) + (f" and {rest} more" if rest > 0 else "")
