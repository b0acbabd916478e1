"""What `Trainer(push_to_hub=True)` puts on the Hub beside the weights: code from the first push on, and our card.

transformers pushes checkpoints during training without the code files, which leaves a repository that cannot be loaded
until the end; here they lie in the output folder before the first push. The card is ours (`lfvila_hf/hub/cards.py`)
with the last evaluation as its metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfvila_hf.hub.cards import CardFacts, model_card
from lfvila_hf.hub.publishing import add_code_files

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object

# What an evaluation logs that is no property of the model.
NOT_METRICS = ("_runtime", "_per_second", "epoch", "step", "_preparation_time")


class PublishedTraining(Trainer):
    """The part of `LFVilaTrainer` that publishes; a mixin in front of transformers' `Trainer`."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, and put the code files into the output folder, which every push uploads."""
        super().init_hf_repo(token=token, private=private)
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            add_code_files(folder)

    def create_model_card(  # type: ignore[override]  # fewer arguments: what else transformers has is on every card
        self,
        license: str | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        dataset: str | Sequence[str] | None = None,
        dataset_tags: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the card into the output folder.

        Args:
            license: of the weights.
            model_name: repository, where the training arguments name none.
            finetuned_from: what training started from; the model's own repository where it came from one.
            dataset: what it was trained on, and evaluated on.
            dataset_tags: the same as identifiers of the Hub, if there is no `dataset`.
            **kwargs: not used.
        """
        if not self.is_world_process_zero():
            return
        model: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        adapter = hasattr(model, "peft_config")
        base = model.get_base_model() if adapter else model
        named = dataset or dataset_tags or ()
        datasets = [named] if isinstance(named, str) else list(named)
        started = finetuned_from or str(getattr(base.config, "_name_or_path", "") or "")
        facts = CardFacts(
            datasets=datasets,
            license=license,
            base_model=started if started and not Path(started).exists() else None,
            metrics=last_evaluation(self.state.log_history),
            evaluated_on=datasets[0] if len(datasets) == 1 else None,
        )
        if adapter:
            facts.base_model = facts.base_model or model.peft_config["default"].base_model_name_or_path
        config = base.config.to_dict() | {"architectures": [type(base).__name__]}
        state, args = self.state, self.args
        lines = [
            f"{state.global_step} steps, {state.epoch or 0:.2f} epochs of at most {args.num_train_epochs:g}, "
            f"{args.train_batch_size * args.gradient_accumulation_steps * args.world_size} pairs a step, "
            f"learning rate {args.learning_rate:g}, weight decay {args.weight_decay:g}, seed {args.seed}."
        ]
        repo = self.hub_model_id or model_name or Path(str(args.output_dir)).resolve().name
        card = model_card(repo, config, facts, lines, adapter)
        Path(str(args.output_dir), "README.md").write_text(card, encoding="utf-8")


def last_evaluation(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The numbers of the last evaluation in a Trainer's log, without the prefix `eval_`; empty without one."""
    evaluations = [entry for entry in history if any(name.startswith("eval_") for name in entry)]
    if not evaluations:
        return {}
    return {
        name.removeprefix("eval_"): value
        for name, value in evaluations[-1].items()
        if name.startswith("eval_") and not name.endswith(NOT_METRICS)
    }
