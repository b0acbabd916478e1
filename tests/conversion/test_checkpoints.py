"""Conversion of files to a folder for the Auto classes, written atomically, and the command `lfvila-hf convert`.

The mapping of tensors is tested in test_released.py, hostile files in test_checkpoint_files.py. Memory is measured by
benchmarks/conversion_memory.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from released_layout import random_state, tiny_original
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
    BertConfig,
    BertModel,
)

from lfvila_hf import LFVilaProcessor, LFVilaVideoProcessor
from lfvila_hf.cli import main
from lfvila_hf.conversion import TASKS, checkpoints, config_from_original, convert_checkpoint, convert_state_dict
from lfvila_hf.conversion.checkpoints import REPORT_FILE, push_folder

AUTO_CLASSES: dict[str, Any] = {
    "pretraining": AutoModelForPreTraining,
    "retrieval": AutoModel,
    "question_answering": AutoModelForVisualQuestionAnswering,
    "multiple_choice": AutoModelForMultipleChoice,
    "video_classification": AutoModelForVideoClassification,
}
# Sentences that fit into the tiny model's 64 positions.
LENGTHS = {"max_sentences": 4, "max_sentence_length": 8}


@pytest.fixture
def files(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """Make a folder with a YAML and a tokenizer."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tiny_original(2)), encoding="utf-8")
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def save_released(folder: Path, task: str, stage: int = 2, dtype: torch.dtype = torch.float16) -> dict[str, Any]:
    state = random_state(tiny_original(stage), task, dtype)
    torch.save(state, folder / "released.bin")
    return state


def convert(folder: Path, task: str, **options: Any) -> Any:
    arguments: dict[str, Any] = {"tokenizer": str(folder / "tokenizer")} | LENGTHS | options
    return convert_checkpoint(folder / "released.bin", folder / "config.yaml", task, folder / "out", **arguments)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".out") or path.name == "out")


@pytest.mark.parametrize("task", list(TASKS))
def test_the_auto_classes_read_what_was_written(files: Path, task: str) -> None:
    state = save_released(files, task)
    report = convert(files, task)
    assert leftovers(files) == ["out"]
    model, info = AUTO_CLASSES[task].from_pretrained(files / "out", output_loading_info=True)
    assert type(model) is TASKS[task]
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.dtype == torch.float16 and report.dtype == "float16"
    config = config_from_original(tiny_original(2), task)
    for name, tensor in convert_state_dict(state, config, task).items():
        assert torch.equal(model.state_dict()[name], tensor), name
    for field in ("clip_feature_source", "mtc_other_negatives", "temporal_alignment", "num_labels"):
        assert getattr(model.config, field) == getattr(config, field)
    processor = AutoProcessor.from_pretrained(files / "out")
    assert isinstance(processor, LFVilaProcessor)
    assert json.loads((files / "out" / REPORT_FILE).read_text("utf-8")) == report.to_dict()


def test_the_processor_fits_the_model(files: Path, tiny_tokenizer: Any) -> None:
    original = tiny_original(2)
    original["bert_config"]["vocab_size"] = len(tiny_tokenizer)
    (files / "config.yaml").write_text(yaml.safe_dump(original), encoding="utf-8")
    torch.save(random_state(original, "retrieval", torch.float16), files / "released.bin")
    assert not [note for note in convert(files, "retrieval", dtype="float32").notes if "tokenizer" in note]
    processor = AutoProcessor.from_pretrained(files / "out")
    model = AutoModel.from_pretrained(files / "out").eval()
    videos = [torch.randint(0, 256, (20, 3, 60, 90), dtype=torch.uint8) for _ in range(2)]
    text = [["a man rides", "he rides"], ["a red ball", "the blue box", "then a circle"]]
    batch = processor(text=text, videos=videos, return_tensors="pt")
    assert batch["pixel_values_videos"].shape == (2, 12, 3, 40, 56)
    assert batch["input_ids"].shape == (2, 3, 8)
    with torch.no_grad():
        assert model(**batch).logits_per_text.isfinite().all()


def test_video_classification_needs_no_tokenizer_and_an_empty_folder_is_filled(files: Path) -> None:
    save_released(files, "video_classification")
    (files / "out").mkdir()
    convert(files, "video_classification", tokenizer=None)
    assert isinstance(LFVilaVideoProcessor.from_pretrained(files / "out"), LFVilaVideoProcessor)
    assert not list((files / "out").glob("tokenizer*"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", None])
def test_the_given_or_the_widest_dtype_is_written(files: Path, dtype: str | None) -> None:
    state = save_released(files, "retrieval")
    state["video_encoder.norm.weight"] = state["video_encoder.norm.weight"].float()
    torch.save(state, files / "released.bin")
    report, expected = convert(files, "retrieval", dtype=dtype), dtype or "float32"
    assert (
        report.dtype == expected
        and "the checkpoint mixes dtypes; all was written in the widest of them" in report.notes
    )
    tensors = load_file(files / "out" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {f"torch.{expected}"}
    assert str(AutoModel.from_pretrained(files / "out").dtype) == f"torch.{expected}"


def test_a_deepspeed_folder_is_read(files: Path) -> None:
    folder = files / "released.bin"
    folder.mkdir()
    state = random_state(tiny_original(2), "retrieval")
    torch.save({"module": {f"module.{key}": value for key, value in state.items()}}, folder / "pytorch_model.bin")
    assert convert(files, "retrieval").task == "retrieval"


def test_cross_modal_layers_come_from_a_bert_on_request(files: Path) -> None:
    save_released(files, "pretraining", stage=1)
    sizes = {"vocab_size": 71, "hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 3}
    bert = BertModel(BertConfig(**sizes, intermediate_size=80, max_position_embeddings=64))
    bert.save_pretrained(files / "bert")
    report = convert(files, "question_answering", bert=str(files / "bert"), dtype="float32")
    assert len(report.from_bert) == 48
    model = AutoModelForVisualQuestionAnswering.from_pretrained(files / "out")
    ours, theirs = model.cross_modal_encoder.layers[1], bert.encoder.layer[4]
    assert torch.equal(ours.output.dense.weight, theirs.output.dense.weight)


def test_files_have_the_permissions_of_new_files(files: Path) -> None:
    save_released(files, "retrieval")
    mask = os.umask(0o027)
    try:
        convert(files, "retrieval")
    finally:
        os.umask(mask)
    modes = {path.stat().st_mode & 0o777 for path in (files / "out").iterdir()}
    assert modes == {0o640}
    assert (files / "out").stat().st_mode & 0o777 == 0o750


def test_warnings_are_notes_of_the_report(files: Path, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    original = tiny_original(2, window_size=[[t, 2, 3] for t in (1, 3, 3, 6, 6, 12)], local_window=3)
    (files / "config.yaml").write_text(yaml.safe_dump(original), encoding="utf-8")
    torch.save(random_state(original, "retrieval"), files / "released.bin")
    notes = convert(files, "retrieval").notes
    assert len([note for note in notes if "clip features will see neighbouring clips" in note]) == 1
    sizes = f"the tokenizer has {len(tiny_tokenizer)} tokens and the model 71 word embeddings"
    assert f"{sizes}: the model cannot read all of its tokens" in notes
    assert not caplog.records


# -- nothing half-written --------------------------------------------------------------------------------------------


def spoil(folder: Path, kind: str) -> None:
    """Make one of the inputs bad."""
    state, path = random_state(tiny_original(2), "retrieval"), folder / "released.bin"
    if kind == "pickle":

        class RunsCode:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(folder / "trace"),)

        torch.save({"a": RunsCode()}, path)
    elif kind == "values":
        state["text_global_proj.weight"][1, 1] = float("nan")
        torch.save(state, path)
    elif kind == "length":
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "task":
        torch.save(random_state(tiny_original(2), "multiple_choice"), path)
    elif kind == "yaml":
        (folder / "config.yaml").write_text("MODEL: {TYPE: swin}\n", encoding="utf-8")
    elif kind == "tokenizer":
        for file in (folder / "tokenizer").iterdir():
            file.unlink()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("pickle", {}, "refused, because reading it would run code"),
        ("values", {}, r"1 not finite: text_global_proj\.weight"),
        ("length", {}, "truncated or damaged"),
        ("task", {}, "it looks like a multiple_choice checkpoint"),
        ("yaml", {}, "no released LF-VILA configuration"),
        ("tokenizer", {}, "cannot load the tokenizer .* pass a folder that holds it: --tokenizer PATH"),
        ("", {"bert": "some-bert"}, "this retrieval model has none"),
        ("", {"dtype": "int8"}, "dtype must be one of .*, got 'int8'"),
        ("", {"max_sentences": 0}, "max_sentences must be at least 1, got 0"),
        ("", {"max_sentences": 6}, "6 sentences of 8 tokens do not fit the model's 5 segments and 64 positions"),
        (
            "",
            {"max_sentence_length": 50},
            "4 sentences of 50 tokens do not fit the model's 5 segments and 64 positions",
        ),
    ],
)
def test_bad_input_is_one_error_and_leaves_nothing_behind(
    files: Path, kind: str, options: dict[str, Any], message: str
) -> None:
    save_released(files, "retrieval")
    spoil(files, kind)
    with pytest.raises(ValueError, match=message):
        convert(files, "retrieval", **options)
    assert leftovers(files) == []
    assert not (files / "trace").exists()


def test_a_failure_while_writing_leaves_nothing_behind(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_released(files, "retrieval")

    def fail(*arguments: Any) -> None:
        assert [name for name in leftovers(files) if name != "out"], "the temporary folder lies beside the output"
        raise OSError("disk full")

    monkeypatch.setattr(LFVilaProcessor, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        convert(files, "retrieval")
    assert leftovers(files) == []


def test_a_folder_that_holds_something_is_left_alone(files: Path) -> None:
    save_released(files, "retrieval")
    (files / "out").mkdir()
    (files / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match="exists and is not empty, nothing was written"):
        convert(files, "retrieval")
    assert [path.name for path in (files / "out").iterdir()] == ["mine.txt"]


def test_a_converted_folder_is_uploaded_in_one_commit(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> Any:
            calls.append(("create", {"repo_id": repo_id, **options}))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/somebody/{repo_id}")

        def upload_folder(self, **options: Any) -> None:
            calls.append(("upload", options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    url = push_folder(files, "lfvila", private=True)
    assert url == "https://huggingface.co/somebody/lfvila"
    assert [name for name, _ in calls] == ["create", "upload"]
    assert calls[0][1] == {"repo_id": "lfvila", "private": True, "exist_ok": True}
    assert calls[1][1]["repo_id"] == "somebody/lfvila" and calls[1][1]["folder_path"] == str(files)


# -- command -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def arguments(files: Path) -> list[str]:
    """Arguments that convert a phase-one checkpoint for retrieval."""
    (files / "config.yaml").write_text(yaml.safe_dump(tiny_original(1)), encoding="utf-8")
    save_released(files, "pretraining", stage=1)
    words = {
        "--checkpoint": files / "released.bin",
        "--original-config": files / "config.yaml",
        "--task": "retrieval",
        "--output-dir": files / "out",
        "--tokenizer": files / "tokenizer",
        "--max-sentence-length": 12,
    }
    return ["convert", *(str(word) for pair in words.items() for word in pair)]


def replaced(arguments: list[str], option: str, value: str) -> list[str]:
    place = arguments.index(option) + 1
    return [*arguments[:place], value, *arguments[place + 1 :]]


def test_the_command_prints_its_report_and_nothing_else(arguments: list[str], tmp_path: Path) -> None:
    """Run a new process, in which no test framework captures the output of libraries."""
    command = [sys.executable, "-m", "lfvila_hf.cli", *arguments, "--temporal-alignment"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert lines[0] == f"checkpoint     {tmp_path / 'released.bin'}"
    assert lines[-1] == f"written to     {tmp_path / 'out'}"
    assert [line for line in lines if line.startswith("  clip_projection")]  # kept on request
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_new_parts_are_reproducible(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = replaced(arguments, "--task", "video_classification")
    contents = []
    for number, seed in enumerate(("5", "5", "6")):
        output = tmp_path / f"out{number}"
        assert main([*replaced(words, "--output-dir", str(output)), "--seed", seed]) == 0
        contents.append((output / "model.safetensors").read_bytes())
    assert contents[0] == contents[1] != contents[2]
    assert "2 classifier (from random numbers)" in capsys.readouterr().out


def test_an_error_is_one_line_and_an_unknown_task_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "released.bin").write_bytes(b"nothing")
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lfvila-hf convert: error: ") and captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="2"):
        main(replaced(arguments, "--task", "captioning"))
    assert "invalid choice: 'captioning'" in capsys.readouterr().err


def test_the_tokenizer_is_the_released_one_unless_named(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    place = arguments.index("--tokenizer")
    without = arguments[:place] + arguments[place + 2 :]
    assert main(without) == 1
    error = capsys.readouterr().err
    assert "cannot load the tokenizer 'bert-large-uncased'" in error and "--tokenizer PATH" in error
    assert main(replaced(without, "--task", "video_classification")) == 0  # reads no text


def test_the_folder_is_uploaded_on_request(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uploads: list[tuple[Any, ...]] = []

    def push(folder: str, repo_id: str, private: bool | None = None) -> str:
        assert (Path(folder) / "model.safetensors").is_file()
        uploads.append((folder, repo_id, private))
        return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr(checkpoints, "push_folder", push)
    assert main([*arguments, "--push-to-hub", "org/lfvila-actnet"]) == 0
    assert uploads == [(str(tmp_path / "out"), "org/lfvila-actnet", None)]
    assert capsys.readouterr().out.splitlines()[-1] == "uploaded to    https://huggingface.co/org/lfvila-actnet"
