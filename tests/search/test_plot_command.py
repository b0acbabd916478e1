"""`lfvila-hf plot`, and the pictures of similarity and attention; the other pictures are tested in test_plots.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_library import make_checkpoint, make_videos

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plots)")

from lfvila_hf.search.plot_command import main, training_log
from lfvila_hf.search.plots import plot_attention, plot_similarity

pytestmark = pytest.mark.extras

PNG, SVG = b"\x89PNG", b"<?xml"


def test_every_kind_is_drawn_from_a_checkpoint_and_files(
    tmp_path: Path, tiny_vocabulary: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(make_checkpoint(tmp_path / "checkpoint", tiny_vocabulary))
    videos = make_videos(tmp_path / "videos", (20, 30))
    lines = [{"clip_id": video.name, "text": ["a man rides", "the end"]} for video in videos]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model = ["--model", checkpoint]
    calls = {
        "alignment.png": ["alignment", *model, "--video", str(videos[0]), "--story", "A man rides. The end."],
        "attention.svg": ["attention", *model, "--video", str(videos[1]), "--frames", "3"],
        "similarity.png": [
            *("similarity", *model, "--annotations", str(tmp_path / "rows.jsonl")),
            *("--videos", str(tmp_path / "videos"), "--score", "both"),
        ],
    }
    for name, call in calls.items():
        assert main([*call, "--output", str(tmp_path / "out" / name)]) == 0
        assert (tmp_path / "out" / name).read_bytes().startswith(PNG if name.endswith("png") else SVG)
        assert capsys.readouterr().out.strip().endswith(name)


def test_training_curves_are_those_of_the_last_state(tmp_path: Path) -> None:
    for step in (10, 20):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        state = {"global_step": step, "log_history": [{"step": s, "loss": 1.0 / s} for s in range(10, step + 1, 10)]}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    assert [entry["step"] for entry in training_log(str(tmp_path / "run"))] == [10, 20]
    assert main(["losses", str(tmp_path / "run"), "--output", str(tmp_path / "a.png")]) == 0
    with pytest.raises(ValueError, match="there is no trainer_state.json in"):
        training_log(str(tmp_path))


def test_other_files_than_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--output must end in \.png or \.svg, got a.pdf"):
        main(["losses", str(tmp_path), "--output", "a.pdf"])


def test_the_share_of_right_videos_first_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1], [0.0, 0.1, 0.5], [0.7, 0.2, 0.1]])
    plot_similarity(scores, tmp_path / "a.png", target=[0, 1, 2, 0])
    assert drawn[0].axes[1].get_title() == "right video first: 75.0% of 4 texts"
    plot_similarity(torch.rand(100, 100), tmp_path / "b.svg", shown=10)
    assert drawn[1].axes[0].images[0].get_array().shape == (10, 10)
    with pytest.raises(ValueError, match="4 texts need as many targets from 0 to 2"):
        plot_similarity(scores, tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"similarity must be \(texts, videos\), got \(3,\)"):
        plot_similarity(torch.zeros(3), tmp_path / "c.png")


def test_maps_that_do_not_fit_the_pictures_are_refused(tmp_path: Path) -> None:
    pictures, maps = torch.rand(4, 3, 8, 12) * 255, [torch.rand(4, 2, 3), torch.rand(4, 1, 1)]
    assert plot_attention(pictures, maps, [2, 4], [0, 1, 2, 3], tmp_path / "a.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="4 pictures need as many seconds"):
        plot_attention(pictures, maps, [2, 4], [0, 1, 2], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"got 4 and \[4, 3\] with 2 windows"):
        plot_attention(pictures, [maps[0], maps[1][:3]], [2, 4], [0, 1, 2, 3], tmp_path / "a.png")
