"""PEFT adapters: target modules of LoRA, and task heads that are trained and saved with every adapter.

`register_with_peft`, called on `import lfvila_hf`, adds our model types to PEFT's table of LoRA targets and replaces
each tuner in PEFT's table by a subclass, `LFVilaLoraModel` for `LoraModel` and so on. The subclass is used for our
models alone; called with another model, it returns PEFT's own tuner. For our models it fills in `modules_to_save` with
the heads that a task trains from scratch (`head_modules` of the model class), because a head that is not saved comes
back random. It does so in a copy of the configuration, which can therefore serve several models.

The classes are attributes of this module, so that adapted models can be pickled.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

logger = logging.get_logger(__name__)

PROJECTIONS = ("text_projection", "video_projection", "sentence_projection", "clip_projection")
LORA_TARGETS = {
    "lfvila": ["query", "value", "qkv", *PROJECTIONS],
    "lfvila_video_model": ["qkv"],
    "lfvila_text_model": ["query", "value"],
}

# Heads that PEFT itself adds to `modules_to_save` for a `task_type`, whatever the model has.
NAMES_OF_TASKS = ("classifier", "score", "qa_outputs")


@dataclass
class LoraArguments:
    """LoRA arguments of a training script, for `HfArgumentParser`.

    Args:
        lora_r: Rank of the adapter. Defaults to 0: no adapter, the full model is trained.
        lora_alpha: Scale of the update. Defaults to `2 * lora_r`.
        lora_dropout: Dropout on the adapter's input.
    """

    lora_r: int = field(default=0, metadata={"help": "Rank of a LoRA adapter; 0 trains the full model."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Scale of the update. Defaults to 2 * lora_r."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input."})

    def apply(self, model: Any) -> Any:
        """Add the adapter to a model; return the model unchanged if `lora_r` is 0."""
        return add_lora(model, self.lora_r, self.lora_alpha, self.lora_dropout) if self.lora_r else model


def lora_config(r: int = 16, alpha: int | None = None, dropout: float = 0.0, **fields: Any) -> LoraConfig:
    """Return a LoRA configuration that infers targets and heads from the model it is used with.

    Args:
        r: Rank.
        alpha: Scale of the update. Defaults to `2 * r`.
        dropout: Dropout on the adapter's input.
        **fields: Further fields of PEFT's `LoraConfig`.

    Raises:
        ValueError: The rank is below 1, or the dropout outside [0, 1).
    """
    from peft import LoraConfig

    if r < 1:
        raise ValueError(f"lora_r = {r} is no rank of an adapter. Use 1 or more.")
    if not 0 <= dropout < 1:
        raise ValueError(f"lora_dropout = {dropout} is out of range. Use at least 0 and less than 1.")
    return LoraConfig(r=r, lora_alpha=2 * r if alpha is None else alpha, lora_dropout=dropout, **fields)


def add_lora(model: Any, r: int = 16, alpha: int | None = None, dropout: float = 0.0, **fields: Any) -> PeftModel:
    """Wrap a model so that only a LoRA adapter and the heads are trained; arguments as for `lora_config`."""
    from peft import get_peft_model

    return get_peft_model(model, lora_config(r, alpha, dropout, **fields))


def head_modules(model: Any) -> list[str]:
    """Return the names of the heads that a model's task trains from scratch; empty for a model without such heads.

    The MLM and VTM heads count in the fusion phase only, because the contrastive phase does not use them.
    """
    names = getattr(model, "head_modules", ())
    if getattr(model.config, "model_type", "") == "lfvila" and "vtm_head" in names:
        names = names if model.config.training_phase == "fusion" else ()
    return [name for name in names if getattr(model, name, None) is not None]


def is_lfvila(model: Any) -> bool:
    """Return whether a model is one of ours, remote code included."""
    return getattr(getattr(model, "config", None), "model_type", None) in LORA_TARGETS


def with_heads(config: Any, model: Any) -> Any:
    """Return a copy of an adapter's configuration whose `modules_to_save` default to the model's heads.

    Warns of names in `modules_to_save` that the model does not have, and of heads that the method cannot save.
    """
    config, heads = copy.copy(config), head_modules(model)
    if not hasattr(config, "modules_to_save"):
        if heads:
            logger.warning_once(f"{config.peft_type} has no modules_to_save: {heads} stay untrained and are not saved")
        return config
    if config.modules_to_save is None:
        config.modules_to_save = heads or None
        return config
    parts = {part for name, _ in model.named_modules() for part in name.split(".")}
    added = NAMES_OF_TASKS if getattr(config, "task_type", None) else ()
    if unknown := [name for name in config.modules_to_save if name.split(".")[-1] not in (*parts, *added)]:
        logger.warning_once(
            f"modules_to_save names {unknown}, which {type(model).__name__} does not have. Its heads: {heads}"
        )
    return config


class _LFVilaTuner:
    """Mixin of a PEFT tuner: adapters on LF-VILA train and save the heads of the task."""

    peft_tuner: type
    """The tuner that other models get."""

    def __new__(cls, model: Any = None, *args: Any, **kwargs: Any) -> Any:
        if model is None or is_lfvila(model):  # none: unpickling
            return super().__new__(cls)
        return cls.peft_tuner(model, *args, **kwargs)

    def __init__(self, model: Any, peft_config: Any, adapter_name: str, **kwargs: Any) -> None:
        configs = peft_config if isinstance(peft_config, dict) else {adapter_name: peft_config}
        copies = {name: with_heads(config, model) for name, config in configs.items()}
        super().__init__(model, copies, adapter_name, **kwargs)  # type: ignore[call-arg]

    def inject_adapter(self, model: Any, adapter_name: str, **kwargs: Any) -> None:
        """Prepare the configuration of an adapter that is added to an adapted model, then inject it."""
        configs = self.peft_config  # type: ignore[attr-defined]
        if getattr(configs[adapter_name], "modules_to_save", None) is None:
            configs[adapter_name] = with_heads(configs[adapter_name], model)
        super().inject_adapter(model, adapter_name, **kwargs)  # type: ignore[misc]


def _tuners() -> Iterable[tuple[Any, type]]:
    """Return PEFT's tuners that wrap layers, by type of adapter; those of prompts have no modules to save."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTuner

    for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items():
        if kind != PeftType.XLORA and isinstance(tuner, type) and issubclass(tuner, BaseTuner):
            yield kind, tuner


def register_with_peft() -> None:
    """Register the LoRA targets and the heads of our models with PEFT; calling it twice changes nothing.

    Raises:
        ImportError: PEFT is not installed.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.update(LORA_TARGETS)
    for kind, tuner in list(_tuners()):
        if not issubclass(tuner, _LFVilaTuner):
            name = f"LFVila{tuner.__name__}"
            globals()[name] = type(name, (_LFVilaTuner, tuner), {"peft_tuner": tuner, "__module__": __name__})
            PEFT_TYPE_TO_TUNER_MAPPING[kind] = globals()[name]
