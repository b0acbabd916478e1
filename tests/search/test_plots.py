"""Plots: real pictures of the right size, what is drawn in them, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lfvila_hf.search import plots

pytest.importorskip("matplotlib", reason="plots need the plots extra")

pytestmark = pytest.mark.extras

CONTRASTIVE = [
    {"loss": 6.0, "global_loss": 4.0, "mtc_loss": 8.0, "step": 10, "learning_rate": 1e-3},
    {"eval_loss": 9.0, "step": 10},
    {"loss": 3.0, "global_loss": 2.0, "mtc_loss": 4.0, "step": 20},
    {"train_loss": 4.5, "train_runtime": 1.0, "step": 20},
]
FUSION = [{"loss": 16.0, "mlm_loss": 6.0, "vtm_loss": 1.0, "step": 5}]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The figures that were made."""
    figures: list[Any] = []
    make = plots._figure

    def keep(*sizes: Any, **counts: Any) -> Any:
        figure, axes = make(*sizes, **counts)
        figures.append(figure)
        return figure, axes

    monkeypatch.setattr(plots, "_figure", keep)
    yield figures


def read_picture(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    picture = imread(path)  # (rows, columns, channels)
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 20, "the picture is empty"
    return picture


def test_every_logged_term_of_every_phase_is_a_line(tmp_path: Path, drawn: list[Any]) -> None:
    path = plots.plot_losses(
        {"first": CONTRASTIVE, "second": FUSION, "nothing": [{"train_loss": 1.0}]}, tmp_path / "a.png"
    )
    assert path == tmp_path / "a.png"
    height, width = read_picture(path).shape[:2]
    assert 300 < height < 800 and 1.8 * 600 < width < 2000  # two panels beside each other
    (figure,) = drawn
    lines = {
        axis.get_title(): {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axis.get_lines()}
        for axis in figure.axes
    }
    assert lines == {
        "first": {
            "total (weighted)": [[10, 6], [20, 3]],
            "global contrastive": [[10, 4], [20, 2]],
            "temporal contrastive (MTC)": [[10, 8], [20, 4]],
        },
        "second": {
            "total (weighted)": [[5, 16]],
            "masked language (MLM)": [[5, 6]],
            "video-text matching (VTM)": [[5, 1]],
        },
    }


def test_every_term_that_the_trainer_logs_has_a_name_in_the_plot() -> None:
    from lfvila_hf.training.trainer import TERMS

    assert set(plots.TERM_NAMES) == {"loss", *TERMS}


def test_phases_without_a_loss_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the phases \['first'\] has logged a loss"):
        plots.plot_losses({"first": [{"eval_loss": 1.0, "step": 1}]}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_an_alignment_shows_cosines_sentences_seconds_and_choices(tmp_path: Path, drawn: list[Any]) -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.2, 0.05], [0.3, -0.2, 0.8, 0.1]], requires_grad=True)
    sentences = ["A man rides a horse.", "He falls."]
    times = [0.0, 1.25, 2.5, 3.75, 5.5]
    path = plots.plot_alignment(similarity, sentences, times, [0, 2], tmp_path / "a.png", "one")
    height, width = read_picture(path).shape[:2]
    assert 200 < height < 800 and 600 < width < 2000
    (axis, colour_bar) = drawn[0].axes
    assert [label.get_text() for label in axis.get_yticklabels()] == sentences
    spans = [label.get_text() for label in axis.get_xticklabels()]
    assert spans == ["0.0-1.2 s", "1.2-2.5 s", "2.5-3.8 s", "3.8-5.5 s"]
    numbers = [text.get_text() for text in axis.texts]
    assert numbers == ["0.90", "0.10", "0.20", "0.05", "0.30", "-0.20", "0.80", "0.10"]
    assert np.allclose(axis.images[0].get_array(), similarity.detach().numpy())
    assert axis.collections[0].get_offsets().tolist() == [[0, 0], [2, 1]]
    assert axis.get_title() == "one" and colour_bar.get_ylabel() == "cosine"


def test_a_long_sentence_is_wrapped_and_half_precision_is_drawn(tmp_path: Path, drawn: list[Any]) -> None:
    sentence = "a very long sentence " * 8
    similarity = torch.rand(1, 8).to(torch.bfloat16)
    plots.plot_alignment(similarity, [sentence], range(9), [7], tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().lstrip().startswith("<?xml")
    (label,) = drawn[0].axes[0].get_yticklabels()
    assert label.get_text().count("\n") >= 3 and label.get_text().split() == sentence.split()


def test_the_share_of_right_videos_first_is_told(tmp_path: Path, drawn: list[Any]) -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1], [0.0, 0.1, 0.5]])
    plots.plot_similarity(scores, tmp_path / "a.png")
    assert drawn[0].axes[1].get_title() == "right video first: 66.7% of 3 texts"
    plots.plot_similarity(torch.rand(100, 100), tmp_path / "b.svg")
    assert drawn[1].axes[0].images[0].get_array().shape == (plots.SHOWN, plots.SHOWN)


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'lfvila_hf\[plots\]'"):
        plots.plot_losses({"first": CONTRASTIVE}, tmp_path / "a.png")
