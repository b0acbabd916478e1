"""What is refused before an engine is asked: manifests, versions, processors, arguments. Needs no engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_config

from lfvila_hf import cli
from lfvila_hf.export import ExportedLFVila
from lfvila_hf.export.export_command import build_parser, check
from lfvila_hf.export.exported_model import check_int8
from lfvila_hf.export.exporting import export_model, frame_rule
from lfvila_hf.export.manifest import FORMAT, MANIFEST, Manifest, describe_file, read_manifest
from lfvila_hf.search.encoders import default_device, load_encoder

VALUES: dict[str, Any] = {
    "engine": "onnx",
    "precision": "float32",
    "frames_multiple": 8,
    "frames_fixed": False,
    "lfvila_hf": "0.1",
    "engine_version": "1.32",
}


def make_folder(folder: Path, **values: Any) -> Path:
    folder.mkdir()
    for name in ("video.onnx", "text.onnx"):
        (folder / name).write_bytes(b"a graph")
    files = {name: describe_file(folder / name) for name in ("video.onnx", "text.onnx")}
    Manifest(**{**VALUES, "files": files, **values}).write(folder)
    return folder


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = read_manifest(make_folder(tmp_path / "a"))
    manifest.check_files(tmp_path / "a")
    assert manifest.frames_multiple == 8
    assert manifest.digest() == read_manifest(make_folder(tmp_path / "b")).digest()
    assert manifest.digest() != read_manifest(make_folder(tmp_path / "c", precision="int8")).digest()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is no exported folder"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "cannot be read"),
        (
            json.dumps({"format": FORMAT + 1, "lfvila_hf": "9.9"}),
            f"format {FORMAT + 1} .lfvila_hf 9.9.*reads format {FORMAT}",
        ),
        (json.dumps({"format": FORMAT}), "wrong fields"),
        (json.dumps({"format": FORMAT, "files": {}, **VALUES, "engine": "tensorrt"}), r"wrong fields \['engine'\]"),
        (json.dumps({"format": FORMAT, "files": [], **VALUES}), "wrong fields"),
    ],
)
def test_a_folder_that_is_no_export_of_this_version_is_refused(content: str | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=words):
        ExportedLFVila.from_pretrained(tmp_path)


def test_changed_files_are_noticed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    (folder / "text.onnx").write_bytes(b"A graph")
    with pytest.raises(ValueError, match="is damaged: text.onnx has 7 bytes and SHA-256"):
        ExportedLFVila.from_pretrained(folder)
    (folder / "text.onnx").unlink()
    with pytest.raises(ValueError, match="text.onnx is missing"):
        ExportedLFVila.from_pretrained(folder)


def test_the_search_names_the_folder_and_the_reason(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    with pytest.raises(ValueError, match="no cross-modal encoder, which reranking needs"):
        load_encoder(str(folder), with_fusion=True)
    (folder / "video.onnx").unlink()
    with pytest.raises(ValueError, match="cannot be used: the exported folder .* is damaged"):
        load_encoder(str(folder))


def test_commands_run_an_export_on_the_cpu_of_a_machine_with_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra index)")
    from lfvila_hf.search.indexing import EmbeddingActor

    devices: list[Any] = []

    def load(*arguments: Any, device: Any = None, **options: Any) -> None:
        devices.append(device)
        raise ValueError("asked")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("lfvila_hf.search.encoders.load_encoder", load)
    (tmp_path / "film.ts").touch()
    (tmp_path / "checkpoint").mkdir()
    export = str(make_folder(tmp_path / "export"))
    for model in (export, str(tmp_path / "checkpoint")):
        assert cli.main(["index", str(tmp_path), "--model", model, "--output", str(tmp_path / "index")]) == 1
        assert cli.main(["watch", str(tmp_path / "film.ts"), "red", "--model", model]) == 1
        with pytest.raises(ValueError, match="asked"):
            EmbeddingActor(b"", model, 8, None, False, False)
    assert devices == ["cpu"] * 3 + ["cuda"] * 3
    assert (default_device(export, "cuda:1"), default_device("name", "cuda:1")) == ("cpu", "cuda:1")


@pytest.mark.parametrize(
    ("capabilities", "accepted"),
    [
        ({"architecture": "x86_64", "avx2": True, "cpu_name": "old"}, False),
        ({"architecture": "x86_64", "avx2": True, "avx512_vnni": True}, True),
        ({"architecture": "x86_64", "avx2": True, "avx_vnni": True}, True),
        ({"architecture": "aarch64"}, True),
        ({}, True),  # not known
    ],
)
def test_int8_needs_vnni(
    capabilities: dict[str, Any], accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    if accepted:
        check_int8()
        return
    with pytest.raises(ValueError, match=r"int8 needs a processor with VNNI .*this one \(old\).*Export in float32"):
        ExportedLFVila.from_pretrained(make_folder(tmp_path / "a", precision="int8"))


def test_int8_is_refused_where_pytorch_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
    with pytest.raises(ValueError, match=r"PyTorch .* cannot tell .* Install a newer PyTorch, or export in float32"):
        check_int8()


def test_frames_are_multiples_of_what_windows_tile() -> None:
    assert frame_rule(tiny_config()) == (8, False)
    assert frame_rule(tiny_config(video={"num_frames": 16})) == (8, False)
    assert frame_rule(tiny_config(video={"num_frames": 12, "num_clips": 3})) == (12, True)  # 24 would tile
    assert frame_rule(tiny_config(video={"temporal_shift": True, "num_frames": 16})) == (16, True)


def test_arguments_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    parser = build_parser()
    words = ["--to", "onnx", "--output", str(tmp_path / "new")]
    with pytest.raises(ValueError, match="there is no folder"):
        check(parser.parse_args([str(tmp_path / "none"), *words]))
    with pytest.raises(ValueError, match="exists and is not empty"):
        check(parser.parse_args([str(tmp_path), *words[:-1], str(tmp_path / "full")]))
    assert parser.parse_args(["a", *words]).precision == "float32"
    assert parser.parse_args(["a", *words, "--fp16"]).precision == "float16"
    with pytest.raises(SystemExit):
        parser.parse_args(["a", *words, "--fp16", "--int8"])
    for options in ({"engine": "tensorrt"}, {"precision": "int4"}):
        with pytest.raises(ValueError, match="must be one of"):
            export_model(tmp_path, tmp_path / "new", **options)
    with pytest.raises(ValueError, match="exists and is not empty"):
        export_model(tmp_path, tmp_path / "full")
