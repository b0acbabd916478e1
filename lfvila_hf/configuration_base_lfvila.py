# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""What the three configurations share: checks of their fields, and which arguments belong to stored sizes of video."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from transformers.configuration_utils import PreTrainedConfig

# What `from_pretrained` of a model takes to change its size of video after loading.
VIDEO_SIZES = ("num_frames", "temporal_windows", "image_size", "spatial_window")


def refuse_strangers(config: PreTrainedConfig, fields: dict[str, Any]) -> None:
    """Refuse keywords that are no field of `config` and cannot be meant as they are.

    transformers keeps any other keyword as an attribute, and so do we: a file of a newer release, `auto_map` and the
    like must load.

    Raises:
        ValueError: the fields are another model's, one is derived from others, or one is a misspelt field.
    """
    own = type(config)
    model_type = fields.get("model_type", own.model_type)
    if model_type != own.model_type:
        raise ValueError(f'{own.__name__} has model_type "{own.model_type}", got the fields of a "{model_type}"')
    names = [field.name for field in dataclasses.fields(config)]
    for name in fields:
        derived = getattr(own, name, None)
        if isinstance(derived, property) and derived.fset is None:
            raise ValueError(
                f"{name} follows from the other fields of {own.__name__} and cannot be given: {derived.__doc__}"
            )
        if meant := difflib.get_close_matches(name, names, n=1, cutoff=0.85):
            raise ValueError(f"{own.__name__} has no field {name!r}; is {meant[0]!r} meant?")


def check_range(config: PreTrainedConfig, low: int, high: float, *names: str) -> None:
    """Raise `ValueError` naming the first of the fields `names` that is not in [low, high]."""
    for name in names:
        if not low <= getattr(config, name) <= high:
            at_most = "" if high == float("inf") else f" and at most {high}"
            raise ValueError(f"{name} must be at least {low}{at_most}, got {getattr(config, name)}")


class LFVilaBaseConfig(PreTrainedConfig):
    """A configuration whose sizes of video belong to the stored weights.

    The Auto classes make the configuration first and hand the model what is left of their arguments. A size has to be
    left: weights are loaded at their own, and `from_pretrained` of the model changes it afterwards.
    """

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in the base class; with `return_unused_kwargs`, sizes of video are among the unused."""
        if not kwargs.get("return_unused_kwargs"):
            return super().from_dict(config_dict, **kwargs)
        sizes = {name: kwargs.pop(name) for name in VIDEO_SIZES if name in kwargs}
        config, unused = super().from_dict(config_dict, **kwargs)
        return config, unused | sizes
