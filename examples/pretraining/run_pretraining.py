r"""Both phases of LF-VILA's pre-training: contrastive (global loss and MTC), then fusion (MLM and VTM).

    cd examples/pretraining
    python run_pretraining.py configs/contrastive.yaml --smoke
    accelerate launch run_pretraining.py configs/contrastive.yaml --data_dir DATA --video_dir VIDEOS \
        --model_name_or_path CHECKPOINT --do_train --do_eval --do_predict
    torchrun --nproc_per_node 8 run_pretraining.py configs/contrastive.yaml ...

The yaml holds the released hyper-parameters; options win over it. `--smoke` runs the whole path on generated videos
in under a minute on a CPU. DATA is what `lfvila-hf corpus` writes. `predictions.jsonl` gets one row per sample.

The fusion phase starts from the contrastive phase's checkpoint (`--model_name_or_path`); the contrastive phase from
`--swin` and `--bert`.

Steps: 1. arguments 2. rows and data sets 3. model and processor 4. training 5. evaluation, predictions.
Steps 2 to 5 are functions of `lfvila_hf.recipes.running`; data, hardware and numbers are in the README beside this.
"""

from __future__ import annotations

from lfvila_hf.recipes.arguments import parse_recipe
from lfvila_hf.recipes.running import run_recipe
from lfvila_hf.recipes.tasks import tasks_of


def main(words: list[str] | None = None) -> dict[str, float]:
    """Run the recipe and return its metrics."""
    # 1. arguments: a yaml, then options
    arguments, training = parse_recipe(words, tasks_of("contrastive", "fusion"))
    # 2. to 5. rows, model, training, evaluation
    metrics = run_recipe(arguments, training)
    if training.process_index == 0:
        for name, value in metrics.items():
            print(f"{name:<28} {value:.4f}")
    return metrics


if __name__ == "__main__":
    main()
