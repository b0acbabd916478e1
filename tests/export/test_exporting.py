"""Exported folders: the embeddings of the model, any batch and number of frames, and where a model goes.

A trace takes tens of seconds, so one serves all tests of one checkpoint.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import random_videos, tiny_batch, tiny_config, tiny_model
from transformers import BertTokenizer
from video_files import write_video

import lfvila_hf
from lfvila_hf import LFVilaModel, LFVilaProcessor, LFVilaVideoProcessor
from lfvila_hf.export import ExportedLFVila, exporting
from lfvila_hf.export.exported_model import check_int8
from lfvila_hf.export.exporting import export_model, frame_rule
from lfvila_hf.search import VideoLibrary
from lfvila_hf.search.encoders import load_encoder
from lfvila_hf.search.segments import SegmentRule

for module, extra in (("onnx", "onnx"), ("onnxscript", "onnx"), ("onnxruntime", "onnx"), ("openvino", "openvino")):
    pytest.importorskip(module, reason=f"{module} is not installed (extra {extra})")

pytestmark = [pytest.mark.extras, pytest.mark.slow, pytest.mark.timeout(1800)]

ENGINES = ("onnx", "openvino")
FLOAT32, FLOAT16, INT8 = 1e-5, 5e-3, 0.1
"""Largest differences of unit vectors of 64 numbers; 2.4e-7, 4.4e-4 and 1.3e-2 were measured on a tiny model."""
STORY = [["A man rides.", "The ball is red."], ["It is blue."], ["a man", "a box", "a ball", "it is in"]]


def make_checkpoint(folder: Path, vocabulary: dict[str, int], seed: int = 0, **fields: Any) -> Path:
    processor = LFVilaProcessor(
        LFVilaVideoProcessor(size={"height": 24, "width": 40}, num_frames=8, num_clips=4),
        BertTokenizer(vocab=dict(vocabulary)),
        max_sentences=4,
        max_sentence_length=10,
    )
    text = {"vocab_size": len(vocabulary)} | fields.pop("text", {})
    tiny_model(LFVilaModel, tiny_config(text=text, **fields), seed=seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_vocabulary: dict[str, int]) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), tiny_vocabulary)


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Makes an exported folder once for all tests that want it; all of them are stored from one trace."""
    root, graphs = tmp_path_factory.mktemp("exported"), tmp_path_factory.mktemp("graphs")
    write = exporting.write_graph

    def write_once(model: LFVilaModel, tower: str, path: Path) -> None:
        if not (graphs / path.name).exists():
            write(model, tower, graphs / path.name)
        for name in (path.name, f"{path.name}.data"):
            shutil.copy(graphs / name, path.parent)

    def export(engine: str, precision: str = "float32") -> Path:
        folder = root / f"{engine}_{precision}"
        if not folder.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exporting, "write_graph", write_once)
                export_model(checkpoint, folder, engine, precision)
        return folder

    yield export


def video_difference(exported: ExportedLFVila, model: LFVilaModel, batch: int, frames: int) -> float:
    pixels = random_videos(batch, frames=frames)
    with torch.no_grad():
        expected = model.get_video_features(pixels, return_dict=True)
    found = exported.get_video_features(pixels)
    names = [name for name in ("video_embeds", "clip_embeds") if expected.get(name) is not None]
    pairs = [(found[name], expected[name]) for name in names]
    assert all(one.shape == other.shape and one.dtype == torch.float32 for one, other in pairs)
    return max(float((one - other).abs().max()) for one, other in pairs)


def text_difference(exported: ExportedLFVila, model: LFVilaModel, inputs: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        expected = model.get_text_features(inputs["input_ids"], inputs["attention_mask"], return_dict=True)
    found = exported.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    torch.testing.assert_close(found.sentence_mask, expected.sentence_mask)
    names = [name for name in ("text_embeds", "sentence_embeds") if expected.get(name) is not None]
    pairs = [(found[name], expected[name]) for name in names]
    assert all(one.shape == other.shape for one, other in pairs)
    return max(float((one - other).abs().max()) for one, other in pairs)


def text_batches() -> list[dict[str, torch.Tensor]]:
    """Batches of several sizes; the last has empty sentences, as shorter paragraphs of a batch do."""
    sizes = ((1, 1, 2, False), (1, 4, 6, True), (3, 5, 8, True), (5, 2, 10, True))
    batches = [tiny_batch(batch, sentences, tokens, padded) for batch, sentences, tokens, padded in sizes]
    empty = tiny_batch(2, 4, 6)
    empty["attention_mask"][1, 2:] = 0
    return [*batches, empty]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_export_has_the_embeddings_of_the_model_at_any_size(
    engine: str, checkpoint: Path, exported: Callable[..., Path]
) -> None:
    model = LFVilaModel.from_pretrained(checkpoint).eval()
    found = ExportedLFVila.from_pretrained(exported(engine), num_threads=1)
    for batch, frames in ((1, 8), (3, 8), (2, 16), (1, 40)):
        assert video_difference(found, model, batch, frames) <= FLOAT32, (batch, frames)
    for inputs in text_batches():
        assert text_difference(found, model, inputs) <= FLOAT32, inputs["input_ids"].shape


@pytest.mark.parametrize("precision", ["float16", "int8"])
@pytest.mark.parametrize("engine", ENGINES)
def test_smaller_precisions_stay_near_and_are_smaller(
    engine: str, precision: str, checkpoint: Path, exported: Callable[..., Path]
) -> None:
    if precision == "int8":
        try:
            check_int8()
        except ValueError as error:
            pytest.skip(str(error))
    model = LFVilaModel.from_pretrained(checkpoint).eval()
    found = ExportedLFVila.from_pretrained(exported(engine, precision), num_threads=1)
    bound = FLOAT16 if precision == "float16" else INT8
    differences = [
        video_difference(found, model, 2, 16),
        *(text_difference(found, model, one) for one in text_batches()),
    ]
    assert FLOAT32 < max(differences) <= bound, differences
    names = ("video.onnx.data", "text.onnx.data") if engine == "onnx" else ("video.bin", "text.bin")
    sizes = [sum((exported(engine, one) / name).stat().st_size for name in names) for one in (precision, "float32")]
    assert sizes[0] < 0.7 * sizes[1], sizes


@pytest.mark.parametrize("engine", ENGINES)
def test_an_export_goes_where_a_model_goes(
    engine: str, checkpoint: Path, exported: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoProcessor

    folder = exported(engine)
    shutil.move(shutil.copytree(folder, tmp_path / "copy"), tmp_path / "moved")  # it is self-contained
    model, processor = LFVilaModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(tmp_path / "moved")
    export = ExportedLFVila.from_pretrained(tmp_path / "moved")
    lengths = {"a.mp4": 20, "b.mp4": 60}
    (tmp_path / "videos").mkdir()
    videos = [
        write_video(tmp_path / "videos" / name, count, size=(24, 40), first_number=50 * count)
        for name, count in lengths.items()
    ]
    texts = [lfvila_hf.encode_paragraphs(one, processor, STORY) for one in (model, export)]
    clips = [lfvila_hf.encode_videos(one, processor, videos) for one in (model, export)]
    for score in ("global", "both"):
        expected, found = (
            one.similarity(text, clip, score=score)
            for one, text, clip in zip((model, export), texts, clips, strict=True)
        )
        torch.testing.assert_close(found, expected, atol=FLOAT32, rtol=0)
    inputs = processor(text=STORY, videos=videos)
    torch.testing.assert_close(
        export(**inputs).logits_per_text, model(**inputs, return_loss=False).logits_per_text, atol=1e-3, rtol=0
    )

    hits = []
    for source in (checkpoint, tmp_path / "moved"):
        library = VideoLibrary(load_encoder(str(source)), rule=SegmentRule(seconds=1.0), root=tmp_path / "videos")
        library.add(tmp_path / "videos")
        hits.append([(hit.path, hit.start, round(hit.score, 4)) for hit in library.search("A man rides. It is blue.")])
    assert hits[0] == hits[1] and hits[0]
    assert load_encoder(str(tmp_path / "moved")).fingerprint == load_encoder(str(folder)).fingerprint


def test_graphs_say_nothing_of_the_machine_they_were_made_on(exported: Callable[..., Path]) -> None:
    for folder in (exported("onnx"), exported("openvino")):
        for path in folder.glob("*.[ox]*"):
            content = path.read_bytes()
            assert b".py" not in content and str(folder.parent).encode() not in content, path.name


def test_two_checkpoints_have_two_fingerprints(
    exported: Callable[..., Path], tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    other = export_model(
        make_checkpoint(tmp_path / "checkpoint", tiny_vocabulary, seed=1), tmp_path / "exported", "onnx"
    )
    assert load_encoder(str(other)).fingerprint != load_encoder(str(exported("onnx"))).fingerprint


@pytest.mark.parametrize(
    ("fields", "frames"),
    [
        ({"text": {"pool_padded_sentences": True}}, (8, 16)),  # as in released weights
        ({"temporal_alignment": False}, (8, 16)),
        ({"video": {"num_frames": 6, "num_clips": 3}}, (6,)),  # not tiled: this number only
        ({"video": {"temporal_shift": True, "num_frames": 16}}, (16,)),
    ],
    ids=["pooled padding", "no alignment", "not tiled", "shifted in time"],
)
def test_other_configurations_are_exported_as_they_are(
    fields: dict[str, Any], frames: tuple[int, ...], tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", tiny_vocabulary, **fields)
    model = LFVilaModel.from_pretrained(source).eval()
    found = ExportedLFVila.from_pretrained(export_model(source, tmp_path / "exported", "onnx"))
    for count in frames:
        assert video_difference(found, model, 2, count) <= FLOAT32
    for inputs in text_batches():
        assert text_difference(found, model, inputs) <= FLOAT32
    if len(frames) == 1:
        assert frame_rule(model.config) == (frames[0], True)
        with pytest.raises(ValueError, match=f"num_frames=8: this export takes {frames[0]} frames only"):
            found.get_video_features(random_videos(1, frames=8))


def test_inputs_that_an_export_does_not_take_are_refused(exported: Callable[..., Path]) -> None:
    found = ExportedLFVila.from_pretrained(exported("openvino"))
    wrong: list[tuple[Callable[[], Any], str]] = [
        (
            lambda: found.get_video_features(random_videos(1, frames=12)),
            "num_frames=12: this export takes multiples of 8",
        ),
        (lambda: found.get_video_features(random_videos(1, height=32)), r"must be \(B, T, 3, 24, 40\), got"),
        (lambda: found.get_video_features(random_videos(1)[0]), r"must be \(B, T, 3, 24, 40\), got"),
        (lambda: found.get_video_features(random_videos(1)[:, :0]), r"must be \(B, T, 3, 24, 40\), got"),
        (lambda: found.get_video_features(random_videos(1).long()), "normalised floating-point pixels"),
        (lambda: found.get_video_features(random_videos(1), num_clips=2), "num_clips=2 differs from the exported 4"),
        (lambda: found.get_text_features(torch.ones(1, 6, 4).long()), "at most 5 sentences"),
        (lambda: found.get_text_features(torch.ones(1, 5, 9).long()), "together at most 40"),
        (lambda: found.get_text_features(torch.full((1, 1, 4), 10_000)), "input_ids must lie in 0 to"),
        (lambda: found.get_text_features(torch.ones(1, 1, 4).long(), torch.ones(1, 1, 3).long()), "must both be"),
        (lambda: found(torch.ones(1, 1, 4).long()), "both expected"),
        (lambda: found.to("cuda"), "runs on the CPU, not on cuda"),
        (lambda: found.to(torch.bfloat16), "keeps its precision"),
    ]
    for call, words in wrong:
        with pytest.raises(ValueError, match=words):
            call()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="leave dtype"):
        found.get_video_features(random_videos(1))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_damaged_folder_is_refused(engine: str, exported: Callable[..., Path], tmp_path: Path) -> None:
    suffix = {"onnx": ".onnx.data", "openvino": ".bin"}[engine]
    damages: list[tuple[str, Callable[[Path], Any], str]] = [
        ("missing", lambda folder: (folder / f"text{suffix}").unlink(), f"text{suffix} is missing"),
        ("short", lambda folder: (folder / f"video{suffix}").write_bytes(b"12"), "has 2 bytes"),
        ("flipped", lambda folder: flip_a_bit(folder / f"video{suffix}"), "SHA-256"),
    ]
    for name, damage, words in damages:
        folder = shutil.copytree(exported(engine), tmp_path / name)
        damage(folder)
        with pytest.raises(ValueError, match=f"is damaged: .*{words}"):
            ExportedLFVila.from_pretrained(folder)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


RELEASE = """
import gc, os, signal, sys, threading
from lfvila_hf.export import ExportedLFVila
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
models = [ExportedLFVila.from_pretrained(sys.argv[1], num_threads=1)]
thread = threading.Thread(target=lambda: (models.clear(), gc.collect()))
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_signals_are_handled_after_another_thread_released_the_model(
    engine: str, exported: Callable[..., Path]
) -> None:
    command = [sys.executable, "-c", RELEASE, str(exported(engine))]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0 and found.stdout == "handled\n", (found.returncode, found.stderr)


def test_only_checkpoints_of_lf_vila_are_exported(exported: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a ExportedLFVila: only checkpoints of LF-VILA are exported"):
        export_model(exported("onnx"), tmp_path / "again")
    with pytest.raises(ValueError, match="cannot be used: there is no folder"):
        export_model(tmp_path / "none", tmp_path / "again")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_an_export_that_fails(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("lfvila_hf.export.exporting.write_graph", fail)
    with pytest.raises(OSError, match="disk is full"):
        export_model(checkpoint, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []
