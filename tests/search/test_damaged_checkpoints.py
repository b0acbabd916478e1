"""Damaged checkpoints and impossible settings: one sentence, before anything is embedded, published or allocated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("lancedb")
from small_library import make_checkpoint

from lfvila_hf import LFVilaForPreTraining, LFVilaProcessor, LFVilaVideoProcessor, cli
from lfvila_hf.hub.publishing import check_folder
from lfvila_hf.search.encoders import load_encoder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{one}" for one in letters)]
    return make_checkpoint(tmp_path_factory.mktemp("whole"), {token: place for place, token in enumerate(tokens)})


def _cut(name: str, size: int) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def _without_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("mlp.fc1.weight") or "blocks.0" in name)]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    next(one for name, one in weights.items() if "blocks.0" in name).view(-1)[0] = torch.inf
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _videos(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "processor_config.json").read_text())
        content["video_processor"] |= settings
        (folder / "processor_config.json").write_text(json.dumps(content))

    return change


DAMAGE = {
    "weights cut off": (_cut("model.safetensors", 20_000), "damaged or cut off|cannot be read as safetensors"),
    "weights of 10 bytes": (_cut("model.safetensors", 10), "damaged or cut off|cannot be read as safetensors"),
    "weights of 0 bytes": (_cut("model.safetensors", 0), "damaged or cut off|cannot be read as safetensors"),
    "a tensor is missing": (_without_a_tensor, "1 weights are missing|is missing"),
    "infinite": (_not_finite, "is not finite"),
    "configuration cut off": (_cut("config.json", 50), "JSON"),
    "processor cut off": (_cut("processor_config.json", 50), "JSON"),
    "vocabulary cut off": (_cut("tokenizer.json", 50), "delimiter|JSON|Unterminated|Expecting|EOF"),
    "standard deviation 0": (_videos(image_std=[0, 0, 0]), "image_std must be one or three finite numbers above 0"),
    "standard deviation NaN": (_videos(image_std=[1, float("nan"), 1]), "image_std must be one or three finite"),
    "two means": (_videos(image_mean=[0.5, 0.5]), "image_mean must be one or three finite numbers"),
    "scale": (_videos(rescale_factor=float("inf")), "rescale_factor must be one or three finite numbers above 0"),
    "frames": (_videos(num_frames=10**9), "num_frames must be at least 1 and at most 1000000, got 1000000000"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_one_sentence_wherever_it_is_loaded_or_published(
    kind: str, whole: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "damaged")
    damage, words = DAMAGE[kind]
    damage(folder)
    for use in (lambda: load_encoder(str(folder)), lambda: check_folder(folder)):
        with pytest.raises(ValueError, match=words) as error:
            use()
        assert str(error.value).count("\n") == 0


def test_weights_that_are_cut_off_are_a_value_error_of_from_pretrained(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "damaged")
    _cut("model.safetensors", 20_000)(folder)
    with pytest.raises(
        ValueError, match=r"the weights of .*damaged are damaged or cut off .*Copy or download them again"
    ):
        LFVilaForPreTraining.from_pretrained(folder)


def test_errors_of_damaged_files_are_one_line_of_the_command_line() -> None:
    from safetensors import SafetensorError

    message = cli.explanation(SafetensorError("header too small"))
    assert message == "a file is damaged or cut off: header too small"
    assert cli.explanation(EOFError()) == "a file is damaged or cut off: EOFError"
    assert cli.explanation(MemoryError()) == "there is not enough memory"
    assert cli.explanation(KeyError("a bug")) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_frames": 10**9}, "num_frames must be at least 1 and at most 1000000"),
        ({"num_clips": 0}, "num_clips must be at least 1"),
        ({"image_std": [0.2, 0.2, float("nan")]}, "image_std must be one or three finite numbers above 0"),
        ({"rescale_factor": 0}, "rescale_factor must be"),
    ],
)
def test_settings_that_no_picture_can_be_made_with_are_refused(
    settings: dict[str, Any], words: str, whole: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        LFVilaVideoProcessor(**settings)
    with pytest.raises(ValueError, match=words):
        LFVilaProcessor.from_pretrained(whole, **settings)
    with pytest.raises(ValueError, match=words):
        LFVilaVideoProcessor()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), **settings)
