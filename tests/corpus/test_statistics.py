"""The figures of a corpus against counting by hand, as a table, as JSON and as pictures ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from corpus_inputs import build, even_spans, rows_of, video_row

from lfvila_hf.cli import main
from lfvila_hf.corpus.plan import BuildParameters
from lfvila_hf.corpus.statistics import Distribution, corpus_statistics, plot_statistics


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Rows of four to seven clips, two of every third video, in three categories."""
    videos = []
    for number in range(24):
        spans = even_spans(4 + number % 4, length=3 + number % 5)
        spans += even_spans(5, start=200) if number % 3 == 0 else []
        videos.append(video_row(f"v{number}", spans, category=["Travel", "Food", ""][number % 3]))
    build(tmp_path, videos, parameters=BuildParameters(test=0.3))
    return tmp_path / "corpus"


def test_figures_are_those_of_counting_by_hand(corpus: Path) -> None:
    rows = rows_of(corpus)
    found = corpus_statistics(corpus)
    assert sum(found.rows.values()) == len(rows) == 32
    assert sum(found.videos.values()) == 24
    assert found.categories == {"Travel": 16, "Food": 8, "": 8}
    seconds = [end - start for row in rows for start, end in zip(row["starts"], row["ends"], strict=True)]
    assert found.distributions["clip seconds"].mean == pytest.approx(np.mean(seconds), abs=0.051)
    assert found.distributions["clip seconds"].total == len(seconds)
    assert found.distributions["clips per row"].mean == pytest.approx(np.mean([row["num_clips"] for row in rows]))
    assert found.distributions["rows per video"].counts == {1: 16, 2: 8}
    assert found.distributions["row words"].mean == pytest.approx(np.mean([row["num_words"] for row in rows]))
    assert found.distributions["clip words"].counts == {12: len(seconds)}
    assert found.distributions["gap seconds"].counts == {2: len(seconds) - len(rows)}
    assert found.source["clip words"] == 12


def test_the_table_shows_the_published_figures_beside_ours(corpus: Path) -> None:
    lines = corpus_statistics(corpus).table().splitlines()
    (clip_words,) = [line.split() for line in lines if line.startswith("clip words")]
    assert clip_words == ["clip", "words", "12.0", "12.0", "12.0", "12.0", "12.0", "12.0", "32.5"]
    (clip_seconds,) = [line.split() for line in lines if line.startswith("clip seconds")]
    assert clip_seconds[-1] == "13.4"
    assert [line.split() for line in lines if "Travel" in line] == [["Travel", "16", "50.0", "%"]]


@pytest.mark.parametrize("width", [1, 0.1])
def test_quantiles_are_those_of_sorting(width: float) -> None:
    values = np.random.default_rng(0).integers(0, 500, 999) * width
    one = Distribution("x", width)
    for value in values:
        one.add(float(value))
    for part in (0.05, 0.5, 0.95, 1.0):
        assert one.quantile(part) == pytest.approx(np.quantile(values, part, method="inverted_cdf"))
    assert Distribution("nothing", 1).quantile(0.5) == 0


@pytest.mark.extras
def test_the_command_prints_the_table_and_writes_json_and_pictures(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra plots")
    assert (
        main(["corpus", "stats", str(corpus), "--json", str(tmp_path / "s.json"), "--plots", str(tmp_path / "p")]) == 0
    )
    assert capsys.readouterr().out.startswith(corpus_statistics(corpus).table())
    figures = json.loads((tmp_path / "s.json").read_text())
    assert figures["published"] == {"clip seconds": 13.4, "clip words": 32.5}
    assert sum(figures["figures"]["clips per row"]["histogram"].values()) == 32
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    assert set(pictures) == {f"{name.replace(' ', '_')}.png" for name in figures["figures"]} | {"categories.png"}
    assert all(content.startswith(b"\x89PNG") and len(content) > 3000 for content in pictures.values())


@pytest.mark.extras
def test_bars_hold_what_is_counted(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure", reason="pictures need the extra plots")
    drawn = []
    save = figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *rest, **more: (drawn.append(self), save(self, *rest)))
    found = corpus_statistics(corpus)
    plot_statistics(found, tmp_path)
    assert len(drawn) == 8
    for one, distribution in zip(drawn, found.distributions.values(), strict=False):
        assert sum(bar.get_height() for bar in one.axes[0].patches) >= 0.99 * distribution.total


def test_a_corpus_that_is_missing_or_damaged_is_an_error_with_its_place(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no corpus in"):
        corpus_statistics(tmp_path / "nowhere")
    path = corpus / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet is damaged"):
        corpus_statistics(corpus)
