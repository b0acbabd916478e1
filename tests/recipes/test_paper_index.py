"""`docs/paper_index.md` and the yamls of the recipes say the same, and every number there has a source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lfvila_hf import LFVilaConfig
from lfvila_hf.recipes.recipe_arguments import read_yaml
from lfvila_hf.recipes.tasks import TASKS
from lfvila_hf.training import LFVilaTrainingArguments

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("examples/*/configs/*.yaml"))


def tables() -> dict[str, dict[str, tuple[Any, str]]]:
    """Section title to its rows: name to value and source."""
    found: dict[str, dict[str, tuple[Any, str]]] = {}
    title = ""
    for line in (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            title = line[3:]
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")] if line.startswith("| ") else []
        if len(cells) == 3 and cells[0] not in ("argument", "what"):
            found.setdefault(title, {})[cells[0].strip("`")] = (cells[1], cells[2])
    return found


def test_there_is_a_recipe_for_every_task() -> None:
    assert sorted(read_yaml(ROOT / path)["task"] for path in CONFIGS) == sorted(TASKS)


@pytest.mark.parametrize("path", CONFIGS)
def test_a_yaml_and_its_table_hold_the_same_arguments_and_values(path: str) -> None:
    values = read_yaml(ROOT / path)
    table = {name: yaml.safe_load(value) for name, (value, _) in tables()[path].items()}
    assert table == values
    assert isinstance(values["learning_rate"], float) and values["num_train_epochs"] >= 1


@pytest.mark.parametrize("path", CONFIGS)
def test_every_line_of_a_yaml_names_its_source(path: str) -> None:
    lines = [line for line in (ROOT / path).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.search(r"  # \S.{3,}", line), line


def test_every_number_has_a_source() -> None:
    for title, table in tables().items():
        assert table
        for name, (_, source) in table.items():
            assert len(source) > 3, f"{title}: {name}"


def test_the_losses_of_the_index_are_the_defaults_of_the_model() -> None:
    config, losses = LFVilaConfig(), {name: value for name, (value, _) in tables()["Losses"].items()}
    assert float(losses["global temperature"]) == config.temperature
    assert float(losses["MTC temperature"]) == config.temporal_temperature
    assert float(losses["global weight"]) == config.global_loss_weight
    assert float(losses["MTC weight"]) == config.mtc_loss_weight
    assert losses["MLM weight, VTM weight"] == f"{config.mlm_loss_weight:g}, {config.vtm_loss_weight:g}"
    counts = f"{config.num_anchors}, {config.num_candidates}, {config.num_other_negatives}"
    assert losses["MTC anchors, candidates, other negatives"] == counts


def test_the_optimizer_of_the_index_is_the_default_of_the_arguments(tmp_path: Path) -> None:
    arguments = LFVilaTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    stated = f"{arguments.learning_rate:.0e}, {arguments.adam_beta1} and {arguments.adam_beta2}, 1e-8".replace(
        "e-05", "e-5"
    )
    assert tables()["All recipes"]["learning rate, betas, epsilon"][0] == stated
    assert arguments.adam_epsilon == 1e-8
