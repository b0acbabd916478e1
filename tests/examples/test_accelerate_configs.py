"""The launch configurations: accelerate reads them, and what they name exists. None is run as it is, on GPUs.

What `ddp.yaml` and `fsdp2.yaml` do is run on CPUs by tests/training/test_global_batch_losses.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType
from sharding import launch_environment

import lfvila_hf.modeling_text_lfvila
import lfvila_hf.modeling_video_lfvila
from lfvila_hf import LFVilaPreTrainedModel

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "accelerate_configs"
FILES = sorted(FOLDER.glob("*.yaml"))


def content(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))


def test_the_readme_lists_every_file() -> None:
    assert {path.stem for path in FILES} == {"ddp", "fsdp2", "deepspeed_zero2"}
    listed = (FOLDER / "README.md").read_text("utf-8")
    assert all(f"`{path.name}`" in listed for path in FILES)
    assert listed.count("not run on a GPU") == 2


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_the_file_and_knows_every_field(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig) and config.num_processes == 8 and config.mixed_precision == "bf16"
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED"}
    assert config.distributed_type == DistributedType[kinds[path.stem]]
    for name, value in yaml.safe_load(path.read_text("utf-8")).items():
        found = getattr(config, name)
        assert found == value or name in ("compute_environment", "distributed_type"), name


def test_fsdp_shards_layers_that_exist() -> None:
    told = launch_environment("fsdp2")
    assert told["FSDP_VERSION"] == "2" and told["ACCELERATE_MIXED_PRECISION"] == "bf16"
    layers = told["FSDP_TRANSFORMER_CLS_TO_WRAP"].split(",")
    modules = vars(lfvila_hf.modeling_video_lfvila) | vars(lfvila_hf.modeling_text_lfvila)
    assert layers and all(layer in modules for layer in layers)
    assert set(layers) <= set(LFVilaPreTrainedModel._no_split_modules)


def test_deepspeed_is_at_stage_two_and_leaves_the_rest_to_the_training_arguments() -> None:
    fields = content("deepspeed_zero2")["deepspeed_config"]
    assert fields["zero_stage"] == 2
    assert fields["gradient_accumulation_steps"] == fields["gradient_clipping"] == "auto"
