r"""Classes of long videos: COIN (180 tasks), LVU (relationship, scene, way of speaking); top-1 accuracy.

    cd examples/video_classification
    python run_video_classification.py configs/coin.yaml --smoke
    accelerate launch run_video_classification.py configs/coin.yaml --data_dir DATA --video_dir VIDEOS \
        --model_name_or_path CHECKPOINT --do_train --do_eval --do_predict
    torchrun --nproc_per_node 8 run_video_classification.py configs/coin.yaml ...

The yaml holds the released hyper-parameters; options win over it. `--smoke` runs the whole path on generated videos
in under a minute on a CPU. DATA is what `lfvila-hf prepare` writes. `predictions.jsonl` gets one row per sample.

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
    arguments, training = parse_recipe(words, tasks_of("classification"))
    # 2. to 5. rows, model, training, evaluation
    metrics = run_recipe(arguments, training)
    if training.process_index == 0:
        for name, value in metrics.items():
            print(f"{name:<28} {value:.4f}")
    return metrics


if __name__ == "__main__":
    main()
