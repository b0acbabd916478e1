r"""Paragraph-to-video retrieval: ActivityNet, DiDeMo, QuerYD, Condensed Movie; the global loss, R@1, R@5, R@10.

    cd examples/retrieval
    python run_retrieval.py configs/activitynet.yaml --smoke
    accelerate launch run_retrieval.py configs/activitynet.yaml --data_dir DATA --video_dir VIDEOS \
        --model_name_or_path CHECKPOINT --do_train --do_eval --do_predict
    torchrun --nproc_per_node 8 run_retrieval.py configs/activitynet.yaml ...

The yaml holds the released hyper-parameters; options win over it. `--smoke` runs the whole path on generated videos
in under a minute on a CPU. DATA is what `lfvila-hf prepare` writes. `predictions.jsonl` gets one row per sample.

`--eval_views 3` averages three temporal views, `--paragraph_max_sentences 8` keeps eight sentences apart,
`--dual_softmax_temperature 0.05` and `--rerank_top_k 50` add metrics labelled `dsl_` and `vtm_`.

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
    arguments, training = parse_recipe(words, tasks_of("retrieval"))
    # 2. to 5. rows, model, training, evaluation
    metrics = run_recipe(arguments, training)
    if training.process_index == 0:
        for name, value in metrics.items():
            print(f"{name:<28} {value:.4f}")
    return metrics


if __name__ == "__main__":
    main()
