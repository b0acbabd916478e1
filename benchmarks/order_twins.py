"""Baselines of OrderTwins: LF-VILA with and without MTC, ConSE, and X-CLIP with random weights, three seeds each.

    PYTHONPATH=examples/custom_encoder python benchmarks/order_twins.py --videos FOLDER --work outputs/order_twins

- `lfvila`, `lfvila_without_mtc`: the demo's own recipe, trained here seed by seed (examples/demo, `--mtc-weight 0`);
- `conse`: real weights (examples/custom_encoder) on ShapeTales, whose drawings it has never seen; seeds of the films;
- `conse_clips`, `conse_cuts`: the same on the real clips of `--videos` (`CAPTIONS` of search_real.py) as films of five
  and four, cut into eight equal parts, and cut where their clips begin; seeds of the films;
- `xclip`: a small X-CLIP with random weights, the floor.

Without MTC nothing trains the projections of sentences and clips, so only *global* says something of that model.

Everything is kept in `--work`: a second call goes on with what is missing, a training from its last checkpoint. What
was measured stays: use another folder after a change of the recipe. `--figure FILE` draws accuracy by pair over the
kinds of twins. Times are processor times.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measuring import finish, print_table, read_options, record
from measuring import make_parser as base_parser
from search_real import CAPTIONS

from lfvila_hf.evaluation.order_twins import (
    KINDS,
    CaptionedClips,
    TwinFilms,
    evaluate_order_twins,
    make_order_twins,
)
from lfvila_hf.search.encoders import StoryEncoder, as_encoder, load_encoder
from lfvila_hf.shapetales import build_vocabulary

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("lfvila", "lfvila_without_mtc", "conse", "conse_clips", "conse_cuts", "xclip")
LINES = {
    "LF-VILA demo, MTC, aligned": ("lfvila", "aligned"),
    "LF-VILA demo, MTC, global": ("lfvila", "global"),
    "LF-VILA demo, no MTC, global": ("lfvila_without_mtc", "global"),
    "ConSE, real clips, aligned": ("conse_clips", "aligned"),
    "ConSE, real clips, MaxSim": ("conse_clips", "maxsim"),
    "ConSE, ShapeTales, aligned": ("conse", "aligned"),
    "X-CLIP, random weights, aligned": ("xclip", "aligned"),
}


def random_xclip(seed: int) -> StoryEncoder:
    """A small X-CLIP with random weights and the words of ShapeTales."""
    import transformers

    torch.manual_seed(seed)
    vocabulary = {token: number for number, token in enumerate(build_vocabulary())}
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    mit = {
        "mit_hidden_size": 64,
        "mit_intermediate_size": 128,
        "mit_num_hidden_layers": 1,
        "mit_num_attention_heads": 4,
    }
    config = transformers.XCLIPConfig(
        text_config={**shape, **ids, "max_position_embeddings": 77, "vocab_size": len(vocabulary)},
        vision_config={**shape, **mit, "image_size": 64, "patch_size": 16, "num_frames": 8},
        projection_dim=64,
        prompt_num_attention_heads=4,
    )
    model = transformers.XCLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # with the default initialisation all texts have nearly the same vector
                parameter.normal_(0, 0.2)
    pictures = {
        "size": {"height": 64, "width": 64},
        "image_mean": [0.48, 0.46, 0.41],
        "image_std": [0.27, 0.26, 0.28],
    }
    return as_encoder(model, (transformers.BertTokenizer(vocab=vocabulary, model_max_length=77), pictures))


def conse() -> StoryEncoder:
    """ConSE with real weights."""
    from conse_encoder import ConSEEncoder

    return as_encoder(ConSEEncoder())


def trained(work: Path, seed: int, mtc_weight: float, steps: int) -> StoryEncoder:
    """LF-VILA of the demo's size, trained by the demo, or as far as an earlier call came."""
    folder = work / f"mtc{mtc_weight}_seed{seed}_steps{steps}"
    if not (folder / "metrics.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        words = ["--output", folder, "--seed", seed, "--mtc-weight", mtc_weight, "--contrastive-steps", steps]
        script = ROOT / "examples" / "demo" / "run_demo.py"
        subprocess.run([sys.executable, str(script), *map(str, words)], check=True, stdout=sys.stderr)
    return load_encoder(str(folder / "checkpoint"))


def films_of(model: str, seed: int, options: Any) -> TwinFilms:
    """The films that a model is evaluated on."""
    source, film_seed = None, 0
    if model.startswith("conse"):
        film_seed = seed
    if model in ("conse_clips", "conse_cuts"):
        names = sorted(name for name in CAPTIONS if (options.videos / name).is_file())
        sentences = [CAPTIONS[name] for name in names]
        videos = [str(options.videos / name) for name in names]
        sizes = [(options.videos / name).stat().st_size for name in names]
        source = CaptionedClips("real clips", sentences, videos, names, sizes, clips_per_film=(5, 4))
    films = num_films(model, options)
    folder = options.work / f"films_{'real' if source else 'shapetales'}_{film_seed}_{films}"
    return make_order_twins(folder, source, num_films=films, seed=film_seed, progress=False)


def num_films(model: str, options: Any) -> int:
    """Stories that a model is evaluated on; ConSE takes two and a half minutes for 25."""
    return options.films or (25 if model.startswith("conse") else 100)


def result_file(model: str, seed: int, options: Any) -> Path:
    """The file of one measurement."""
    steps = f"_{options.steps}" if model.startswith("lfvila") else ""
    return options.work / "measured" / f"{model}{steps}_{seed}_{num_films(model, options)}.json"


def measure(model: str, seed: int, options: Any) -> dict[str, Any]:
    """Evaluate one model with one seed, or read what was measured before."""
    file = result_file(model, seed, options)
    if file.exists():
        return json.loads(file.read_text("utf-8"))
    start = time.process_time()
    films = films_of(model, seed, options)
    made = time.process_time() - start
    if model.startswith("lfvila"):
        encoder = trained(options.work, seed, 0.5 if model == "lfvila" else 0.0, options.steps)
    else:
        encoder = conse() if model.startswith("conse") else random_xclip(seed)
    start = time.process_time()
    found = evaluate_order_twins(encoder, films, known_cuts=model == "conse_cuts", progress=False)
    seconds = {"films": round(made, 1), "evaluation": round(time.process_time() - start, 1)}
    result = {**found, "model": model, "class": found["model"], "seed": seed, "processor_seconds": seconds}
    if model.startswith("lfvila"):
        config = encoder.model.config  # type: ignore[attr-defined]  # of LF-VILA
        result["training"] = {
            "steps": options.steps,
            "num_sentence_layers": config.text_config.num_sentence_layers,
            "temporal_temperature": config.temporal_temperature,
        }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".part").write_text(json.dumps(result, indent=1), encoding="utf-8")
    file.with_suffix(".part").rename(file)
    return result


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy by pair over the kinds of twins, mean over seeds, with the lowest and the highest seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    axis = figure.subplots()
    for number, (label, (model, score)) in enumerate(LINES.items()):
        runs = [one["accuracy"][score] for one in results if one["model"] == model and score in one["accuracy"]]
        if not runs:
            continue
        values = [[run[kind]["pair"][0] for run in runs] for kind in KINDS]
        means = [statistics.fmean(one) for one in values]
        # The mean of equal numbers may differ from them by rounding.
        ranges = [
            [max(m - min(one), 0.0) for m, one in zip(means, values, strict=True)],
            [max(max(one) - m, 0.0) for m, one in zip(means, values, strict=True)],
        ]
        places = [place + (number - 3) * 0.04 for place in range(len(KINDS))]
        seeds = f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"
        axis.errorbar(places, means, ranges, marker="o", capsize=3, label=f"{label} ({seeds})")
    axis.axhline(0.5, color="grey", linestyle="--", linewidth=1)
    axis.set_xticks(range(len(KINDS)), ["all clips reversed", "clips permuted", "two neighbours swapped"])
    axis.set(ylabel="accuracy of the right twin, by pair", ylim=(0, 1.02), xlim=(-0.4, 2.4))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    parser = base_parser(__doc__, rounds=1)
    parser.add_argument("--work", type=Path, default=Path("outputs/order_twins"), help="folder of films and trainings")
    parser.add_argument("--videos", type=Path, help="folder of the real clips; without it they are left out")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="which baselines")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--films", type=int, help="stories, each with three twins; 100, ConSE 25")
    parser.add_argument("--steps", type=int, default=600, help="training steps of LF-VILA")
    parser.add_argument("--figure", type=Path, help="file of the figure")
    parser.add_argument("--measured-only", action="store_true", help="train and evaluate nothing that is missing")
    options = read_options(parser, arguments, "steps")
    results = []
    for model in options.models:
        if model in ("conse_clips", "conse_cuts") and options.videos is None:
            continue
        for seed in options.seeds:
            if result_file(model, seed, options).exists() or not options.measured_only:
                results.append(measure(model, seed, options))
                print(f"{model}, seed {seed}: done", file=sys.stderr, flush=True)
    rows = []
    for one in results:
        for score, kinds in one["accuracy"].items():
            rows.append(
                [f"{one['model']} {one['seed']} {score}", *(kinds[kind]["pair"][0] for kind in (*KINDS, "all"))]
            )
    print_table(["accuracy by pair", *KINDS, "all"], rows)
    if options.figure:
        draw(results, options.figure)
    for name in ("work", "videos", "figure"):  # places on this machine say nothing
        setattr(options, name, None)
    answer = record(Path(__file__).stem, options, results=results)
    finish(answer, options)
    return answer


if __name__ == "__main__":
    main()
