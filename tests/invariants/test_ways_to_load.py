"""Ways to load a checkpoint that a transformers user expects: shards, device maps, the meta device, dtypes, few bits.

Export and compilation of the towers, and dtypes of inputs, are in test_equivalences.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import EXAMPLES, tiny_config
from transformers import BitsAndBytesConfig

from lfvila_hf import LFVilaForPreTraining

NAMES = ["joined", "contrastive phase", "question answering", "multiple choice", "classification"]


def forward(model: Any, name: str) -> dict[str, torch.Tensor]:
    """Compute outputs of a batch of one, whose products depend on the alignment of weights, and of a batch of two."""
    found = {}
    for size in (1, 2):
        with torch.no_grad():
            outputs = model(**EXAMPLES[name].inputs(size))
        found |= {f"{key} of {size}": value for key, value in outputs.items() if isinstance(value, torch.Tensor)}
    return found


def assert_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert expected and found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"device_map": "auto"}, {"device_map": {"": "cpu"}}], ids=str)
def test_a_checkpoint_in_shards_comes_back_bit_for_bit(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = EXAMPLES[name].model()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = EXAMPLES[name].model_class.from_pretrained(tmp_path, **options)
    assert_bits(forward(loaded, name), forward(model, name))
    assert not [key for key, one in loaded.named_parameters() if one.data_ptr() % 64], "weights are views into a file"
    buffers = dict(model.named_buffers())
    assert buffers
    for key, value in loaded.named_buffers():  # no checkpoint holds them, and models are built without memory first
        assert torch.equal(value, buffers[key]) and value.device.type == "cpu", key


def test_blocks_are_not_split_over_devices() -> None:
    from accelerate import infer_auto_device_map

    model = EXAMPLES["contrastive phase"].model()
    sizes = {0: 200_000, "cpu": 10**9}
    placed = infer_auto_device_map(model, max_memory=sizes, no_split_module_classes=model._no_split_modules)
    assert {0, "cpu"} <= set(placed.values()), "everything fits on one device, so nothing is tested"
    kinds = {type(module).__name__ for module in model.modules()}
    assert kinds & set(model._no_split_modules)
    modules = dict(model.named_modules())
    whole = [key for key, module in modules.items() if type(module).__name__ in model._no_split_modules]
    assert not [key for key in placed if any(key.startswith(f"{block}.") for block in whole)]


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_brought_for_each_layer_give_the_same_outputs(name: str) -> None:
    from accelerate import cpu_offload

    model = EXAMPLES[name].model()
    expected = forward(model, name)
    cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)
    assert {one.device.type for one in model.parameters()} == {"meta"}
    found = forward(model, name)
    assert found.keys() == expected.keys()
    # The stem is then a convolution instead of a matrix product.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_model_is_built_on_the_meta_device_without_memory() -> None:
    with torch.device("meta"):
        model = LFVilaForPreTraining(tiny_config())
    assert {one.device.type for one in (*model.parameters(), *model.buffers())} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "auto"])
def test_weights_are_loaded_in_the_dtype_asked_for(dtype: Any, tmp_path: Path) -> None:
    model = EXAMPLES["joined"].model().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = EXAMPLES["joined"].model_class.from_pretrained(tmp_path, dtype=dtype)
    wanted = torch.bfloat16 if dtype == "auto" else dtype
    assert {one.dtype for one in loaded.parameters()} == {wanted}
    assert all(one.isfinite().all() for one in forward(loaded, "joined").values() if one.is_floating_point())


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_few_bits_stay_near_the_full_model(bits: int, tmp_path: Path) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes, the backend for 8 and 4 bits, is not installed")
    # Every width a multiple of 64, the block that four bits are scaled by.
    model = EXAMPLES["joined"].model(video={"embed_dim": 64}, text={"hidden_size": 512, "intermediate_size": 512})
    model.save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_quant_type="nf4")
    loaded = EXAMPLES["joined"].model_class.from_pretrained(tmp_path, quantization_config=config)
    kinds = {type(module).__name__ for module in loaded.modules()}
    assert kinds & {"Linear8bitLt", "Linear4bit"}, "no layer was replaced"
    found, expected = forward(loaded, "joined"), forward(model, "joined")
    cosine = (found["video_embeds of 2"].float() * expected["video_embeds of 2"]).sum(-1)
    # Measured on a CPU: 0.987 and 0.853; the weights of these tests are ten times as large as a training leaves them.
    assert cosine.min() > (0.97 if bits == 8 else 0.8)
