"""The ablations that the paper argues from, in small, on ShapeTales: MTC, windows, clip features, frames, phases.

    make ablations                                                    # everything: hours, see the README
    python examples/ablations/run_ablations.py --seeds 0 --only-one   # the next run that is missing
    python examples/ablations/run_ablations.py --smoke                # every step, under a minute or two
    python examples/ablations/run_ablations.py --runs benchmarks/results/ablations_2026-11-28/runs --table-only

Runs that are there are not repeated, so it can be stopped and started at any time. Writes `table.md`, `results.json`
and `ablations.png` to the output folder.

Steps: 1. arguments 2. runs that are missing (`ablation_sweep.py`) 3. table and claims 4. plot.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ablation_sweep import VARIANTS, Settings, plot, report, sweep

SMOKE = {"steps": 2, "fusion_steps": 2, "batch_size": 4, "stories": 24, "test_stories": 8}


def main(words: list[str] | None = None) -> int:
    """Run the sweep."""
    # 1. arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/ablations"), help="folder for everything")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="at least three for a verdict")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), help=f"some of {list(VARIANTS)}")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="steps of the contrastive phase")
    parser.add_argument("--stories", type=int, default=Settings.stories, help="training stories")
    parser.add_argument("--runs", type=Path, help="folder of runs to go on from; default: OUTPUT/runs")
    parser.add_argument("--table-only", action="store_true", help="train nothing: table and plot of what is there")
    parser.add_argument("--only-one", action="store_true", help="stop after one run that was missing")
    parser.add_argument("--smoke", action="store_true", help="two steps per run: shows that every step works")
    options = parser.parse_args(words)
    settings = Settings(**SMOKE) if options.smoke else Settings(steps=options.steps, stories=options.stories)
    # 2. runs that are missing
    options.output.mkdir(parents=True, exist_ok=True)
    chosen = options.variants, options.seeds, options.only_one
    results = sweep(options.output, settings, *chosen, runs=options.runs, train=not options.table_only)
    # 3. table and claims
    table = report(results)
    (options.output / "table.md").write_text(table, encoding="utf-8")
    (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table)
    # 4. plot
    plot(results, options.output / "ablations.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
