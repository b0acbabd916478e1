# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""What the three configurations share: checks of their fields, and which arguments belong to stored sizes of video.

A configuration file is data from a stranger. It may name the code that travels with it (`auto_map`, `custom_pipelines`:
only our own files and classes) and nothing else that runs: whether that code is trusted is said by whoever loads it, in
the call, and never by the file.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig
from transformers import __version__ as transformers_version
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# What `from_pretrained` of a model takes to change its size of video after loading.
VIDEO_SIZES = ("num_frames", "temporal_windows", "image_size", "spatial_window")

# What Auto classes load without our package: by model_type, the class of a flat file for every Auto class.
AUTO_MAPS = {
    "lfvila": {
        "AutoConfig": "configuration_lfvila.LFVilaConfig",
        "AutoModel": "modeling_lfvila.LFVilaModel",
        "AutoModelForPreTraining": "modeling_lfvila.LFVilaForPreTraining",
        "AutoModelForVisualQuestionAnswering": "modeling_lfvila.LFVilaForQuestionAnswering",
        "AutoModelForMultipleChoice": "modeling_lfvila.LFVilaForMultipleChoice",
        "AutoModelForVideoClassification": "modeling_lfvila.LFVilaForVideoClassification",
    },
    "lfvila_video_model": {
        "AutoConfig": "configuration_lfvila.LFVilaVideoConfig",
        "AutoModel": "modeling_video_lfvila.LFVilaVideoModel",
    },
    "lfvila_text_model": {
        "AutoConfig": "configuration_lfvila.LFVilaTextConfig",
        "AutoModel": "modeling_text_lfvila.LFVilaTextModel",
    },
}
# A file that travels with a checkpoint and a class in it, after the repository where transformers has put one in front.
OWN_CODE = re.compile(r"(?:[\w.-]+(?:/[\w.-]+)?--)?\w+_lfvila\.LFVila\w+")
TRUST_FIELDS = ("trust_remote_code", "remote_code", "code_revision", "custom_generate", "import_allowlist")
# What transformers puts into the configuration of any model, besides the fields of its base class and of generation.
TRANSFORMERS_FIELDS = frozenset(
    (
        *("attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "model_type"),
        *("name_or_path", "num_labels", "per_layer_config", "quantization_config", "task_specific_params"),
        *("tie_word_embeddings", "tokenizer_class", "torch_dtype", "transformers_version", "vocab_size"),
    )
)


def refuse_code(config: str, fields: Mapping[str, Any]) -> None:
    """Refuse fields by which a configuration would decide what code is run.

    Args:
        config: name of the configuration's class, for the message.
        fields: its fields, or those of its file.

    Raises:
        ValueError: a field about trust, or code that is not one of our files.
    """
    for name in TRUST_FIELDS:
        if name in fields:
            raise ValueError(
                f"{config} has a field {name!r} = {fields[name]!r}: a configuration does not decide whether code is "
                f"trusted; give it to from_pretrained if you want it"
            )
    named = []
    for field in ("auto_map", "custom_pipelines"):
        value = fields.get(field) or {}
        if not isinstance(value, Mapping):
            raise ValueError(f"{field} of {config} must be a mapping, got {value!r:.80}")
        named += list(value.items())
    for name, reference in named:
        reference = reference.get("impl") if isinstance(reference, Mapping) else reference
        parts = reference if isinstance(reference, list | tuple) else [reference]
        if not all(isinstance(part, str) and OWN_CODE.fullmatch(part) for part in parts):
            raise ValueError(
                f"{config} names foreign code, {name} = {reference!r:.80}: only classes of LF-VILA's files are expected"
            )
    for name in ("text_config", "video_config"):
        if isinstance(fields.get(name), Mapping):
            refuse_code(f"{name} of {config}", fields[name])


def refuse_kernels(config: str, fields: Mapping[str, Any]) -> None:
    """Refuse a configuration file that asks for an attention kernel off the Hub, which would be downloaded and run.

    Raises:
        ValueError: it does; the caller of `from_pretrained` may ask for one.
    """
    kernel = fields.get("attn_implementation", fields.get("_attn_implementation"))
    values = kernel.values() if isinstance(kernel, Mapping) else [kernel]
    if any(isinstance(value, str) and "/" in value for value in values):
        raise ValueError(
            f"{config} asks for a kernel off the Hub, attn_implementation = {kernel!r}: give it to from_pretrained if "
            f"you want it"
        )
    for name in ("text_config", "video_config"):
        if isinstance(fields.get(name), Mapping):
            refuse_kernels(f"{name} of {config}", fields[name])


@functools.cache
def fields_of_transformers() -> frozenset[str]:
    """Names that transformers reads or writes in the configuration of any model."""
    return frozenset(GenerationConfig().to_dict()) | TRANSFORMERS_FIELDS


def release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version, to compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def refuse_strangers(config: PreTrainedConfig, fields: Mapping[str, Any]) -> None:
    """Refuse keywords that are no field of `config`: nothing would read them, whatever they were meant to change.

    What transformers itself puts into a configuration is no stranger; in a file that a newer transformers than the
    installed one has written, that may be any name, so there an unknown one is kept, with a warning.

    Raises:
        ValueError: the fields are another model's, one is derived from others, one is unknown, or one is about code
            (see `refuse_code`).
    """
    own = type(config)
    refuse_code(own.__name__, fields)
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
    unknown = [name for name in fields if not name.startswith("_") and name not in fields_of_transformers()]
    if not unknown:
        return
    written_by = config.transformers_version
    if written_by is not None and release(written_by) > release(transformers_version):
        logger.warning(f"{own.__name__} has no field {unknown}; kept, because transformers {written_by} wrote it")
        return
    raise ValueError(f"{own.__name__} has no field {unknown[0]!r} (= {fields[unknown[0]]!r:.80}); it has {names}")


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

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save as in transformers; where code is saved too, say under which Auto classes all of it can be loaded.

        Raises:
            ValueError: somebody has set an attribute that is no field, so that the file could not be loaded.
        """
        fields = {field.name for field in dataclasses.fields(self)}
        refuse_strangers(self, {name: value for name, value in self.to_diff_dict().items() if name not in fields})
        if self._auto_class is not None:
            self.auto_map = dict(AUTO_MAPS[self.model_type])
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in the base class; with `return_unused_kwargs`, sizes of video are among the unused.

        Raises:
            ValueError: the fields of another model, or ones that would decide what code is run.
        """
        refuse_code(cls.__name__, config_dict)
        refuse_kernels(cls.__name__, config_dict)
        if not kwargs.get("return_unused_kwargs"):
            return super().from_dict(config_dict, **kwargs)
        sizes = {name: kwargs.pop(name) for name in VIDEO_SIZES if name in kwargs}
        config, unused = super().from_dict(config_dict, **kwargs)
        return config, unused | sizes
