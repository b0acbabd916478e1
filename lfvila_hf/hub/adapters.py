"""LoRA adapters with PEFT: which layers they sit on, and which heads are saved with them.

`register_with_peft`, called on `import lfvila_hf`, gives PEFT the targets of our model types: the attention of both
towers and of the cross-modal encoder, and the projections. Heads that a task trains from nothing (`head_modules` of a
model class) are saved with the adapter unless `modules_to_save` says otherwise; without them an adapter on
a base model would come back with a random classifier. PEFT has no table for that, so its table of tuners gets a LoRA
tuner that fills the field in for our models and is PEFT's own for all others.

Trained are then r * (in + out) numbers per targeted layer, and the heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

PROJECTIONS = ("text_projection", "video_projection", "sentence_projection", "clip_projection")
LORA_TARGETS = {
    "lfvila": ["query", "value", "qkv", *PROJECTIONS],
    "lfvila_video_model": ["qkv"],
    "lfvila_text_model": ["query", "value"],
}


@dataclass
class LoraArguments:
    """Arguments of a training script, for `HfArgumentParser`.

    Attributes:
        lora_r: rank of the LoRA adapter that is trained in place of the model; 0 trains the model.
        lora_alpha: scale of its update, twice the rank where not given.
        lora_dropout: dropout on its input.
    """

    lora_r: int = field(default=0, metadata={"help": "Train a LoRA adapter of this rank; 0 trains the whole model."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Scale of its update; twice the rank by default."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the adapter's input."})

    def apply(self, model: Any) -> Any:
        """The model as it is (`lora_r` = 0), or wrapped so that only an adapter and the heads are trained."""
        return add_lora(model, self.lora_r, self.lora_alpha, self.lora_dropout) if self.lora_r else model


def lora_config(r: int = 16, alpha: int | None = None, dropout: float = 0.0, **fields: Any) -> LoraConfig:
    """A LoRA configuration whose targets and heads are found when it is put on a model.

    Args:
        r: rank.
        alpha: scale of the update; 2 r where not given.
        dropout: on the adapter's input.
        **fields: further fields of PEFT's `LoraConfig`.

    Raises:
        ValueError: a rank below 1, or a dropout outside [0, 1).
    """
    from peft import LoraConfig

    if r < 1:
        raise ValueError(f"the rank of an adapter must be at least 1, got lora_r = {r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"lora_dropout must be at least 0 and below 1, got {dropout}")
    return LoraConfig(r=r, lora_alpha=2 * r if alpha is None else alpha, lora_dropout=dropout, **fields)


def add_lora(model: Any, r: int = 16, alpha: int | None = None, dropout: float = 0.0, **fields: Any) -> PeftModel:
    """Wrap a model so that only a LoRA adapter and the heads are trained; arguments as for `lora_config`."""
    from peft import get_peft_model

    return get_peft_model(model, lora_config(r, alpha, dropout, **fields))


def head_modules(model: Any) -> list[str]:
    """Names of the modules of a model that its task trains from nothing; empty for a model without such heads.

    The heads for masked tokens and for matching count only in the fusion phase: the contrastive one does not use them.
    """
    names = getattr(model, "head_modules", ())
    if getattr(model.config, "model_type", "") == "lfvila" and "vtm_head" in names:
        names = names if model.config.training_phase == "fusion" else ()
    return [name for name in names if getattr(model, name, None) is not None]


def register_with_peft() -> None:
    """Make PEFT know the targets and the heads of our models; doing it twice does no harm.

    Raises:
        ImportError: PEFT is not installed.
    """
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.lora import LoraModel
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.update(LORA_TARGETS)
    registered: Any = PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA]
    if registered is not LoraModel:  # already ours, or somebody else's, which is not ours to replace
        return

    class LFVilaLoraModel(LoraModel):
        """PEFT's LoRA; adapters on LF-VILA save the heads unless told otherwise."""

        def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
            peft_config = super()._prepare_adapter_config(peft_config, model_config)
            if peft_config.modules_to_save is None and model_config.get("model_type") in LORA_TARGETS:
                peft_config.modules_to_save = head_modules(self.model) or None
            return peft_config

    PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA] = LFVilaLoraModel
