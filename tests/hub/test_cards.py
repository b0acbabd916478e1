"""Model cards as text: metadata, metrics, what nobody said; that their code runs is tested in test_publishing.py."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from lfvila_hf.hub.cards import (
    HEADS,
    CardFacts,
    is_generated,
    metrics_of,
    model_card,
    read_metrics,
    training_lines,
    usage_code,
)

CONFIG = {"architectures": ["LFVilaForVideoClassification"], "model_type": "lfvila"}
FACTS = CardFacts(
    datasets=["coin", "my own videos"],
    license="mit",
    base_model="org/base",
    metrics={"accuracy": 0.5, "top5": 0.9},
    evaluated_on="COIN",
)


def test_a_card_carries_its_metadata_and_metrics_as_model_index() -> None:
    card = ModelCard(model_card("org/thing", CONFIG, FACTS, ["10 steps."]))
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "video-classification", "mit")
    assert data.base_model == "org/base" and data.datasets == ["coin"] and "lfvila" in data.tags
    results = {one.metric_type: (one.metric_value, one.dataset_name) for one in data.eval_results}
    assert results == {"accuracy": (0.5, "COIN"), "top5": (0.9, "COIN")}
    for text in ("Trained on coin, my own videos.", "10 steps.", "| accuracy | 0.5 |", "@inproceedings{sun2022lfvila"):
        assert text in card.text


def test_what_nobody_said_is_said_to_be_unknown() -> None:
    card = model_card("org/thing", CONFIG, CardFacts())
    data = ModelCard(card).data
    assert data.license is None and data.eval_results is None and data.datasets is None
    assert "The training data was not stated." in card and "None were given." in card
    assert "The publisher did not state one." in card


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("base", [None, "org/base"])
def test_usage_code_is_python_that_names_the_repository(name: str, base: str | None) -> None:
    code = usage_code("org/thing", {"architectures": [name]}, base)
    ast.parse(code)
    assert '"org/thing"' in code and "trust_remote_code=True" in code
    assert ("PeftModel" in code) == bool(base)
    without = usage_code("org/thing", {"architectures": [name], "temporal_alignment": False})
    assert "post_process_alignment" not in without


def test_an_adapter_names_its_base() -> None:
    data = ModelCard(model_card("org/thing", CONFIG, FACTS, adapter=True)).data
    assert data.library_name == "peft" and data.base_model == "org/base" and "lora" in data.tags
    with pytest.raises(ValueError, match="names its base model"):
        model_card("org/thing", CONFIG, CardFacts(), adapter=True)


def test_strings_of_others_are_text_on_a_card() -> None:
    nasty = "a]([x](y)) <script>`|`</script>\n\n# Title\n```python\nimport os"
    facts = CardFacts(
        datasets=[nasty], license=nasty, base_model=nasty, evaluated_on=nasty, metrics={nasty: 1.0, "plain_name": 2.0}
    )
    for adapter in (False, True):
        card = model_card(f"org/{nasty}", CONFIG, facts, adapter=adapter)
        body = ModelCard(card).text
        code = body.partition("```python\n")[2].partition("\n```")[0]
        ast.parse(code)
        outside = body.replace(code, "")
        assert "<script>" not in outside and "\n# Title" not in outside and outside.count("```python") == 1
        assert [line for line in outside.splitlines() if line.startswith("|")][2].count("|") == 4  # one is escaped
        assert "| plain_name | 2 |" in outside


def test_an_untouched_card_is_told_from_an_edited_one() -> None:
    card = model_card("org/thing", CONFIG, FACTS)
    assert is_generated(card) and is_generated(card + "\n")
    assert not is_generated(card.replace("LF-VILA", "my")) and not is_generated("") and not is_generated("# A card")


def test_metrics_are_numbers_of_the_first_file_that_is_there(tmp_path: Path) -> None:
    assert metrics_of(tmp_path) == {}
    (tmp_path / "all_results.json").write_text('{"loss": 3}')
    (tmp_path / "metrics.json").write_text(json.dumps({"test": {"R@1": 0.5, "note": "x", "good": True}, "n": 2}))
    assert metrics_of(tmp_path) == {"test.R@1": 0.5, "n": 2}
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="bad.json is not JSON"):
        read_metrics(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        read_metrics(tmp_path / "list.json")


def test_the_trainers_state_says_how_long_was_trained(tmp_path: Path) -> None:
    assert training_lines(tmp_path) == []
    state = {"global_step": 12, "epoch": 1.5, "log_history": [{"loss": 2.0}, {"loss": 1.25}, {"eval_loss": 9}]}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    assert training_lines(tmp_path) == ["12 steps, 1.50 epochs.", "Last training loss in the log: 1.2500."]
