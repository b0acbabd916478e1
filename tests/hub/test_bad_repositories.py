"""Repositories and configurations that are wrong or mean harm end in one clear error, and nothing of theirs runs.

Misspelt and out-of-range fields are tested with the configurations, folders before a push in test_publishing.py.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import EXAMPLES, tiny_config
from transformers import AutoConfig, AutoModel, AutoProcessor, BertConfig, BertModel, pipeline
from transformers.testing_utils import CaptureLogger

from lfvila_hf import LFVilaConfig, LFVilaModel, LFVilaTextConfig
from lfvila_hf.configuration_lfvila import AUTO_MAPS

EVIL = "raise SystemExit('code of a stranger has run')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint whose code files are those of a stranger."""
    EXAMPLES["joined"].model().save_pretrained(tmp_path)
    for path in tmp_path.glob("*.py"):
        path.write_text(EVIL)
    (tmp_path / "evil.py").write_text(EVIL)
    return tmp_path


def change(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trust_remote_code": True}, "'trust_remote_code' = True, but a configuration does not decide"),
        ({"trust_remote_code": False}, "does not decide whether code is trusted"),
        ({"text_config": {"trust_remote_code": True}}, "text_config of LFVilaConfig has a field 'trust_remote_code'"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "names foreign code, AutoModel = 'evil.Model'"),
        ({"auto_map": {"AutoModel": "evil/repo--evil.LFVilaModel"}}, "names foreign code"),
        ({"auto_map": {"AutoTokenizer": ["modeling_lfvila.LFVilaModel", "evil.T"]}}, "names foreign code"),
        ({"auto_map": ["evil.Model"]}, "auto_map of LFVilaConfig must be a mapping"),
        ({"custom_pipelines": {"x": {"impl": "evil.Pipe"}}}, "names foreign code, x = 'evil.Pipe'"),
        ({"custom_generate": "evil/repo"}, "'custom_generate'"),
        ({"attn_implementation": "evil/kernel"}, "asks for a kernel from the Hub"),
        ({"video_config": {"attn_implementation": "evil/kernel"}}, "video_config of LFVilaConfig asks for a kernel"),
        ({"model_type": "bert"}, "LFVilaConfig has model_type"),
        ({"temprature": 0.1}, "has no field 'temprature'; did you mean 'temperature'"),
        ({"temperature": float("nan")}, "temperature must be at least 1e-06"),
        ({"mtc_loss_weight": float("inf")}, "mtc_loss_weight must be at least 0 and at most 1e"),
        ({"video_config": {"depths": [2, 2, 10**6, 2, 2, 2]}}, "depths must sum to at most 1000"),
        ({"video_config": {"num_frames": 10**9}}, "num_frames must be at least 1 and at most 1e"),
        ({"video_config": {"temporal_windows": [2, 4, 8, 16, 16, 10**6]}}, "at most 8192 are supported"),
        ({"text_config": {"num_sentence_layers": 10**6}}, "num_sentence_layers must be at least 0 and at most 1000"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_configuration_of_a_stranger_is_refused(fields: dict[str, Any], message: str, folder: Path) -> None:
    change(folder, **fields)
    for loading in (LFVilaConfig.from_pretrained, LFVilaModel.from_pretrained):
        with pytest.raises(ValueError, match=message):
            loading(folder)


def test_code_in_a_folder_does_not_run_where_the_package_is_installed(folder: Path) -> None:
    for trust in (None, True):
        assert type(AutoModel.from_pretrained(folder, trust_remote_code=trust)) is LFVilaModel


def test_our_own_map_is_complete_and_survives_saving(tmp_path: Path) -> None:
    config = tiny_config(auto_map={"AutoModel": "org/other--modeling_lfvila.LFVilaModel"})
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).auto_map == AUTO_MAPS["lfvila"]
    LFVilaTextConfig().save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).auto_map == AUTO_MAPS["lfvila_text_model"]


def test_an_unknown_field_is_kept_with_a_warning_also_through_a_file(tmp_path: Path) -> None:
    config = tiny_config()
    config.my_run = "third"
    config.text_config.note = "mine"
    config.save_pretrained(tmp_path)
    with CaptureLogger(logging.getLogger("lfvila_hf.configuration_lfvila")) as log:
        loaded = AutoConfig.from_pretrained(tmp_path)
    assert (loaded.my_run, loaded.text_config.note) == ("third", "mine")
    assert "LFVilaConfig has no field 'my_run'; kept" in log.out


@pytest.mark.parametrize("value", [Path("runs/3"), {1, 2}, torch.zeros(2), {"a": object()}])
def test_an_unknown_field_that_no_file_can_hold_is_refused_when_it_is_set(value: Any, tmp_path: Path) -> None:
    config = tiny_config()
    for one in (config, config.text_config, config.video_config):
        with pytest.raises(ValueError, match=r"no field 'run_place', and .* cannot be saved as JSON"):
            one.run_place = value
    config.save_pretrained(tmp_path)


def test_a_misspelt_field_and_foreign_code_are_refused_when_they_are_set(tmp_path: Path) -> None:
    config = tiny_config()
    with pytest.raises(ValueError, match="no field 'temprature'; did you mean 'temperature'"):
        config.temprature = 0.1
    with pytest.raises(ValueError, match="names foreign code"):
        config.auto_map = {"AutoModel": "evil.Model"}
    with pytest.raises(ValueError, match="does not decide"):
        config.trust_remote_code = True
    config.save_pretrained(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="bert"):
        LFVilaModel.from_pretrained(tmp_path)


def test_a_repository_without_the_processor_says_so(folder: Path) -> None:
    with pytest.raises((OSError, ValueError), match="(?i)processor|preprocessor|tokenizer"):
        AutoProcessor.from_pretrained(folder)
    with pytest.raises((OSError, ValueError), match="(?i)processor|preprocessor|tokenizer"):
        pipeline("video-text-retrieval", model=str(folder))
