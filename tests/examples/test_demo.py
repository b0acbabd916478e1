"""The demo's command, end to end: what it writes, that a checkpoint outlives it, a user's own footage, bad folders.

Runs are far too short to learn anything; how well the demo learns is measured, not tested (examples/demo/README.md).
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_files import write_video

from lfvila_hf.search.plot_command import training_log
from lfvila_hf.video_reading_lfvila import LFVilaVideoError

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
FOOTAGE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "videos"
SCORES = ("global", "aligned", "both")
SHORT = ("--contrastive-steps", "10", "--fusion-steps", "10", "--batch-size", "4", "--workers", "1")
PARAGRAPHS = [
    ["A man rides a horse.", "He falls.", "He gets up."],
    ["A ball lies here.", "It is red.", "Then it is blue.", "It rolls.", "It is gone."],
    "One sentence alone.",
]

pytest.importorskip("matplotlib", reason="the demo needs the demo extra")

pytestmark = pytest.mark.extras


def run_demo(output: Path, *words: str) -> str:
    command = [sys.executable, str(DEMO / "run_demo.py"), "--output", str(output), *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-4000:]
    return run.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def assert_picture(path: Path) -> None:
    """A PNG of a sensible size in which something is drawn."""
    from matplotlib.image import imread

    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    picture = imread(path)  # (rows, columns, channels)
    assert 200 <= picture.shape[0] <= 2000 and 400 <= picture.shape[1] <= 3000
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50


def write_footage(folder: Path) -> Path:
    folder.mkdir()
    rows = []
    for number, text in enumerate(PARAGRAPHS):
        write_video(folder / f"v{number}.mp4", 16 + 8 * number, size=(48, 80 - 32 * number), first_number=100 * number)
        rows.append({"clip_id": f"v{number}.mp4" if number else "v0", "text": text})
    (folder / "paragraphs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Output folder and printed text of the command on a few stories."""
    output = tmp_path_factory.mktemp("demo") / "outputs" / "demo"
    return output, run_demo(output, "--stories", "40", *SHORT)


# -- ShapeTales ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_metrics_hold_every_promised_key_for_every_score(stories: tuple[Path, str]) -> None:
    metrics = read(stories[0] / "metrics.json")
    retrieval, order, seconds = metrics["retrieval"], metrics["order"], metrics["seconds"]
    for table in (retrieval, *(retrieval[score] for score in SCORES)):
        assert table["num_videos"] == 200 and table["chance_r1"] == pytest.approx(1 / 200)
        assert 0 <= table["t2v_r1"] <= table["t2v_r5"] <= table["t2v_r10"] <= 1 <= table["t2v_medr"] <= 200
    for table in (order, *(order[score] for score in SCORES)):
        assert 0 <= table["accuracy"] <= 1 and table["chance"] == 0.5 and table["num_pairs"] == 50
    for tables in (retrieval, order):  # the best score's numbers stand on top, under its name
        best = tables[tables["score"]]
        assert best and {key: tables[key] for key in best} == best
    laps = [value for name, value in seconds.items() if name not in ("total", "data_wait")]
    assert seconds["total"] == pytest.approx(sum(laps), abs=1) and min(laps) >= 0
    assert 0 <= seconds["data_wait"] < seconds["total"]
    assert 200 < metrics["peak_rss_mb"] < 3000
    assert 20 < metrics["disk_mb"] < 300 and 341 < metrics["files"] < 500  # a file for each of 341 stories
    assert metrics["held_out"] is True and metrics["mtc_weight"] == 0.5
    assert {"mlm_accuracy", "vtm_accuracy"} <= set(metrics["fusion"])


@pytest.mark.slow
def test_the_pictures_are_pictures(stories: tuple[Path, str]) -> None:
    assert_picture(stories[0] / "loss.png")
    assert_picture(stories[0] / "alignment.png")
    for phase in ("contrastive", "fusion"):  # what `lfvila-hf plot losses` reads
        assert training_log(stories[0] / "training" / phase)


@pytest.mark.slow
def test_three_videos_are_printed_with_the_seconds_of_every_sentence(stories: tuple[Path, str]) -> None:
    output, printed = stories
    request, search = read(output / "search.json"), read(output / "metrics.json")["search"]
    assert len(request["videos"]) == search["num_videos"] == 201
    assert search["expected"].startswith("query") and 1 <= search["rank_of_expected"] <= 201
    best = search["best"]
    assert len({one["video"] for one in best}) == 3
    assert [one["score"] for one in best] == sorted((one["score"] for one in best), reverse=True)
    for rank, one in enumerate(best, start=1):
        assert f"\n{rank}. {one['video']}" in printed
        starts = [moment["start"] for moment in one["moments"]]
        assert starts == sorted(starts) and 0 <= starts[0]
        for moment in one["moments"]:
            assert moment["start"] < moment["end"] < 30
            assert f"{moment['start']:5.1f} - {moment['end']:5.1f} s" in printed
    assert all(sentence in printed for sentence in request["query"])
    assert f"query: {' '.join(request['query'])}" in printed and "held-out retrieval among 200 videos" in printed


@pytest.mark.slow
def test_the_run_is_told_on_one_screen(stories: tuple[Path, str]) -> None:
    lines = stories[1].splitlines()
    assert len(lines) < 60
    assert [line[:4] for line in lines if line[1:4] == "/5 "] == ["1/5 ", "2/5 ", "3/5 ", "4/5 ", "5/5 "]
    assert any(line.startswith("    first look after 2 steps: R@1 ") for line in lines)
    assert "already" not in stories[1], "a first run has nothing to go on with"
    assert {"lfvila-hf index", "lfvila-hf app o", "make demo DATA="} <= {line.strip()[:15] for line in lines}


@pytest.mark.slow
def test_the_same_command_goes_on_and_other_options_start_the_training_again(
    stories: tuple[Path, str], tmp_path: Path
) -> None:
    output = tmp_path / "demo"
    shutil.copytree(stories[0], output)
    videos = {path: path.stat().st_mtime_ns for path in (output / "shapetales" / "videos").iterdir()}
    shutil.rmtree(output / "training" / "fusion")
    (output / "metrics.json").unlink()
    printed = run_demo(output, "--stories", "40", *SHORT)
    assert printed.count("going on from step") == 1 and "going on from step 10 of 10" in printed
    assert "40 videos to learn from" in printed
    assert read(output / "metrics.json")["retrieval"] == read(stories[0] / "metrics.json")["retrieval"]
    printed = run_demo(output, "--stories", "40", *SHORT, "--seed", "1")
    assert "options, videos or paragraphs have changed: training starts again" in printed
    assert "going on from step" not in printed
    assert {path: path.stat().st_mtime_ns for path in videos} == videos


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    words = ("--stories", "40", "--contrastive-steps", "140", "--batch-size", "4", "--output", str(tmp_path / "demo"))
    command = [sys.executable, "-u", str(DEMO / "run_demo.py"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        printed = []
        for line in run.stdout:
            printed.append(line)
            if "step 100 of 140" in line:
                # The line comes before the checkpoint of the same step.
                while not list((tmp_path / "demo" / "training" / "contrastive").glob("checkpoint-100")):
                    time.sleep(0.05)
                run.send_signal(signal.SIGINT)
    assert run.returncode == 130 and printed[-1] == "stopped; the same command goes on from here\n", printed
    printed = run_demo(tmp_path / "demo", *words)
    assert "going on: 341 videos are there already" in printed and "frames of 40 videos are stored already" in printed
    assert "going on from step 100 of 140" in printed
    metrics = read(tmp_path / "demo" / "metrics.json")
    assert metrics["seconds"]["data_wait"] < metrics["seconds"]["contrastive"]
    assert not (tmp_path / "demo" / "checkpoint.part").exists()


@pytest.mark.slow
def test_the_checkpoint_gives_the_scores_of_the_search(stories: tuple[Path, str]) -> None:
    from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor

    from lfvila_hf import LFVilaModel, LFVilaProcessor, encode_paragraphs, encode_videos

    output = stories[0]
    request, best = read(output / "search.json"), read(output / "search_result.json")["best"]
    model, processor = (one.from_pretrained(output / "checkpoint") for one in (AutoModel, AutoProcessor))
    assert isinstance(model, LFVilaModel) and isinstance(processor, LFVilaProcessor)
    texts = encode_paragraphs(model, processor, [request["query"]])
    videos = encode_videos(model, processor, [request["videos"][one["video"]] for one in best])
    found = model.similarity(texts, videos, request["score"])[0].tolist()
    assert found == pytest.approx([one["score"] for one in best], abs=1e-4)
    whole = AutoModelForPreTraining.from_pretrained(output / "checkpoint")
    assert whole.config.training_phase == "contrastive" and whole.mlm_head is not None


# -- own footage -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_own_footage_is_searched_and_one_seed_gives_one_result(tmp_path: Path) -> None:
    folder = write_footage(tmp_path / "footage")
    before = sorted(path.name for path in folder.iterdir())
    results = []
    for name in ("one", "same"):
        # Fewer steps than there are between two lines of the log.
        printed = run_demo(tmp_path / name, "--data", str(folder), "--contrastive-steps", "5", "--fusion-steps", "3")
        assert "trained-on retrieval among 3 videos" in printed
        assert "1 of 3 paragraphs have fewer than 3 sentences" in printed
        metrics = read(tmp_path / name / "metrics.json")
        assert metrics["last_losses"]["mtc_loss"] > 0, "nothing was paired with a clip"
        assert metrics["retrieval"]["num_videos"] == 3 and metrics["retrieval"]["chance_r1"] == pytest.approx(1 / 3)
        assert metrics["order"] == {} and metrics["held_out"] is False
        assert metrics["search"]["expected"] == "v0" and metrics["search"]["num_videos"] == 3
        assert {one["video"] for one in metrics["search"]["best"]} == {"v0", "v1.mp4", "v2.mp4"}
        assert_picture(tmp_path / name / "alignment.png")
        assert (tmp_path / name / "checkpoint" / "model.safetensors").stat().st_size > 1_000_000
        results.append({key: metrics[key] for key in ("retrieval", "fusion", "search")})
    assert results[0] == results[1]
    words = ("--data", str(folder), "--contrastive-steps", "5", "--fusion-steps", "3")
    assert "going on from step 5 of 5" in run_demo(tmp_path / "one", *words)
    rows = (folder / "paragraphs.jsonl").read_text("utf-8")
    (folder / "paragraphs.jsonl").write_text(rows.replace("He falls", "He laughs"), "utf-8")
    printed = run_demo(tmp_path / "one", *words)
    assert "paragraphs have changed: training starts again" in printed and "going on from step" not in printed
    assert sorted(path.name for path in folder.iterdir()) == before, "the user's folder must stay as it is"


@pytest.mark.slow
@pytest.mark.skipif(not FOOTAGE.is_dir(), reason="the real videos are not beside this checkout")
def test_real_footage_is_found_by_its_paragraphs(tmp_path: Path) -> None:
    folder = tmp_path / "footage"
    folder.mkdir()
    for path in FOOTAGE.iterdir():
        (folder / path.name).symlink_to(path)
    rows = (Path(__file__).parent / "real_footage_paragraphs.jsonl").read_text(encoding="utf-8")
    (folder / "paragraphs.jsonl").write_text(rows, encoding="utf-8")
    run_demo(tmp_path / "out", "--data", str(folder), "--fusion-steps", "10")
    metrics = read(tmp_path / "out" / "metrics.json")
    count = len(rows.splitlines())
    assert metrics["retrieval"]["num_videos"] == count
    assert metrics["retrieval"]["t2v_r1"] == 1.0, "it must fit what it was trained on"
    assert metrics["last_losses"]["mtc_loss"] < 1.5
    assert metrics["search"]["rank_of_expected"] == 1


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DEMO))
    import run_demo as module

    return module


@pytest.mark.parametrize(
    ("lengths", "kept"), [([3, 5, 1], 3), ([4, 4, 1, 1], 4), ([9, 8], 4), ([1, 1, 1, 4], 1), ([2, 3, 2], 2)]
)
def test_as_many_sentences_are_kept_as_half_of_the_paragraphs_have(demo: Any, lengths: list[int], kept: int) -> None:
    assert demo.sentences_to_keep(lengths) == kept


def test_a_folder_that_does_not_exist_is_named(demo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main(["--data", str(tmp_path / "absent"), "--output", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert f"--data {tmp_path / 'absent'} is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, r"paragraphs.jsonl is missing. .*here for your 3:\n  \{\"clip_id\": \"v0.mp4\", \"text\": "),
        ([{"clip_id": "v0", "text": ["One."]}], "has 1 row, to search at least 2 are needed"),
        ([{"clip_id": "v0", "text": []}, {"clip_id": "v1", "text": "Two."}], r"paragraphs.jsonl:1.*text"),
        ([{"text": ["One."]}, {"clip_id": "v1", "text": "Two."}], r"paragraphs.jsonl:1.*clip_id"),
        ([{"clip_id": "v1", "text": "One."}, {"clip_id": "v1.mp4", "text": "Two."}], r"several rows for .*v1\.mp4"),
    ],
)
def test_a_folder_that_cannot_be_used_is_explained(demo: Any, tmp_path: Path, rows: Any, message: str) -> None:
    folder = write_footage(tmp_path / "footage")
    (folder / "paragraphs.jsonl").unlink()
    if rows is not None:
        (folder / "paragraphs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        demo.main(["--data", str(folder), "--output", str(tmp_path / "out")])


def test_a_template_of_the_paragraphs_is_left_in_the_output(demo: Any, tmp_path: Path) -> None:
    folder = write_footage(tmp_path / "footage")
    (folder / "paragraphs.jsonl").unlink()
    with pytest.raises(SystemExit, match="This template is in .*put your own sentences into it and move it to"):
        demo.main(["--data", str(folder), "--output", str(tmp_path / "out")])
    template = tmp_path / "out" / "paragraphs.jsonl"
    template.write_text(template.read_text().replace("What happens first.", "A dog runs."))
    with pytest.raises(SystemExit, match="This template is in"):
        demo.main(["--data", str(folder), "--output", str(tmp_path / "out")])
    assert "A dog runs." in template.read_text(), "the user's work was lost"
    shutil.move(template, folder)
    assert len(demo.own_footage(folder, tmp_path / "out").train) == 3


def test_a_video_that_is_missing_or_broken_is_named(demo: Any, tmp_path: Path) -> None:
    folder = write_footage(tmp_path / "footage")
    (folder / "v1.mp4").write_text("no video")
    with pytest.raises(SystemExit, match=r"error: .*v1\.mp4.*paragraphs\.jsonl:2"):
        demo.main(["--data", str(folder), "--output", str(tmp_path / "out"), *SHORT])


def test_a_fault_met_by_a_loader_is_one_line(demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(options: Any) -> None:
        raise LFVilaVideoError(
            "Caught LFVilaVideoError in DataLoader worker\nTraceback\ncannot use video a.mp4: it is gone"
        )

    monkeypatch.setattr(demo, "run", run)
    with pytest.raises(SystemExit, match=r"^error: cannot use video a\.mp4: it is gone$"):
        demo.main(["--output", str(tmp_path)])


def test_a_full_disk_is_one_line(demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(options: Any) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(demo, "run", run)
    with pytest.raises(SystemExit, match=r"^error: no space left on the disk of "):
        demo.main(["--output", str(tmp_path)])
