"""`torch.compile`: one graph, outputs and gradients of the eager model, no new graph for other batches and frames.

Properties of all models without a compiler are tested in test_equivalences.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_equivalences import BATCH_NOISE, assert_same
from tiny_models import EXAMPLES
from torch._dynamo.testing import CompileCounter

from lfvila_hf import LFVilaVideoConfig, LFVilaVideoModel


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("joined", False),
        ("fusion phase", True),
        # a few seconds each
        pytest.param("joined", True, marks=pytest.mark.slow),
        pytest.param("joined, conv stem", False, marks=pytest.mark.slow),
        pytest.param("fusion phase, co-attention", False, marks=pytest.mark.slow),
        pytest.param("multiple choice", True, marks=pytest.mark.slow),
        pytest.param("classification", True, marks=pytest.mark.slow),
    ],
)
def test_a_forward_is_one_graph_without_a_look_at_a_value(name: str, training: bool) -> None:
    torch._dynamo.reset()
    model, inputs = EXAMPLES[name].model().train(training), EXAMPLES[name].inputs(4)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    found = compiled(**inputs)
    torch.manual_seed(0)
    assert_same(found, model(**inputs), BATCH_NOISE)


@pytest.mark.slow  # half a minute of compiling
def test_a_compiled_training_step_has_the_gradients_of_a_plain_one() -> None:
    """Widths of 16 and a grid of 6 x 10 at the end, on which Inductor's scatter once wrote beyond the gradient."""
    torch._dynamo.reset()
    sizes = {"num_frames": 8, "num_clips": 4, "image_size": [192, 320], "temporal_windows": [2, 2, 2, 4, 4, 8]}
    heads = {"embed_dim": 16, "depths": [1] * 6, "num_heads": [1, 1, 1, 1, 1, 2], "drop_path_rate": 0.0}
    torch.manual_seed(0)
    model = LFVilaVideoModel(LFVilaVideoConfig(**sizes, **heads))
    pixels = torch.randn(1, 8, 3, 192, 320)

    def gradients(run: Any) -> dict[str, torch.Tensor]:
        model.zero_grad()
        generator = torch.Generator().manual_seed(1)
        outputs = run(pixels).values()
        sum((one * torch.randn(one.shape, generator=generator)).sum() for one in outputs).backward()
        return {name: one.grad.clone() for name, one in model.named_parameters()}

    expected, found = gradients(model), gradients(torch.compile(model, fullgraph=True))
    for name, one in expected.items():
        assert one.abs().max() > 0
        assert (found[name] - one).abs().max() <= 1e-5 * one.abs().max(), name


@pytest.mark.slow
@pytest.mark.parametrize(("training", "dynamic"), [(False, None), (True, None), (False, True)])
def test_other_batches_and_frames_need_no_third_graph(training: bool, dynamic: bool | None) -> None:
    """The first graph is for the sizes of its input, the second for any, as PyTorch does by default.

    Videos no longer than the longest window are another case: one window is one number less that may change.
    """
    torch._dynamo.reset()
    model = EXAMPLES["video tower"].model().train(training)
    pixels = EXAMPLES["video tower"].inputs(2)["pixel_values_videos"]
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=dynamic)
    graphs = []
    with torch.set_grad_enabled(training):
        for batch, times in ((2, 1), (3, 2), (4, 3), (6, 5), (2, 4)):
            videos = torch.randn(batch, times * pixels.shape[1], *pixels.shape[2:])
            torch.manual_seed(0)
            found = compiled(videos)
            torch.manual_seed(0)
            assert_same(found, model(videos), BATCH_NOISE)
            graphs.append(counter.frame_count)
    assert graphs == [1, 2, 2, 2, 2]


def test_half_precision_trains_in_one_graph() -> None:
    torch._dynamo.reset()
    model, videos = EXAMPLES["video tower"].model().train(), EXAMPLES["video tower"].inputs(2)["pixel_values_videos"]
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.compile(model, fullgraph=True, backend="eager")(videos)
        assert_same(found, model(videos), BATCH_NOISE)
    found.last_hidden_state.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.levels.parameters())
