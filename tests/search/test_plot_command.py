"""`lfvila-hf plot` from a checkpoint and files; what is in the pictures is tested in test_plots.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_library import make_checkpoint, make_videos

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plots)")

from lfvila_hf.search.plot_command import main, training_log

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
