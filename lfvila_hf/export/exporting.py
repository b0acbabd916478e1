# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Export both towers with their projections to ONNX or OpenVINO.

`torch.export` traces each tower once, torch's ONNX exporter writes the graph, and OpenVINO reads that. The sizes that
may change are the batch, the number of frames (multiples of what the temporal windows tile), sentences and tokens.
Frames have the height and width of the configuration.

- **Text.** The tower drops columns that are padding in every row. Their number depends on the values of the mask, which
  both engines handle (ONNX `NonZero`).
- **float16** halves the files: weights are stored in float16 and computed with in float32.
- **int8** quantises weights by channel and activations when they are computed; it needs no calibration data.

Letters: B batch, T frames, K clips, M sentences, L tokens, H W pixels.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from lfvila_hf.export.manifest import ENGINES, PRECISIONS, TOWERS, Manifest, describe_file
from lfvila_hf.modeling_lfvila import LFVilaModel

OPSET = 18


class VideoTower(nn.Module):
    """Video tower with projections, as it is exported: pixels `(B, T, 3, H, W)` to a tuple of embeddings."""

    def __init__(self, model: LFVilaModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values_videos: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return `video_embeds (B, D)` and, with `temporal_alignment`, `clip_embeds (B, K, D)`."""
        output = self.model.get_video_features(pixel_values_videos, return_dict=True)
        return tuple(one for one in (output.video_embeds, output.clip_embeds) if one is not None)


class TextTower(nn.Module):
    """Text tower with projections, as it is exported: ids and mask `(B, M, L)` to a tuple of embeddings."""

    def __init__(self, model: LFVilaModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return `text_embeds (B, D)` and, with `temporal_alignment`, `sentence_embeds (B, M, D)`."""
        output = self.model.get_text_features(input_ids, attention_mask, return_dict=True)
        return tuple(one for one in (output.text_embeds, output.sentence_embeds) if one is not None)


def frame_rule(config: Any) -> tuple[int, bool]:
    """Return the numbers of frames that an export takes: a multiple, and whether only that number itself.

    Windows tile multiples of their least common multiple. A configuration whose own number of frames they do not tile,
    or that shifts windows in time (which depends on whether one window covers the video), is exported for that number.

    Args:
        config: `LFVilaConfig`.
    """
    video = config.video_config
    step = math.lcm(*video.temporal_windows, video.num_clips)
    fixed = video.num_frames % step != 0 or any(video.shifts_in_time(level) for level in range(len(video.depths)))
    return (video.num_frames if fixed else step), fixed


def trace_tower(model: LFVilaModel, tower: str) -> torch.export.ExportedProgram:
    """Trace one tower with `torch.export`, dynamic in batch, frames, sentences and tokens.

    Args:
        model: In evaluation mode, in float32, on the CPU.
        tower: "video" or "text".
    """
    batch = Dim("batch", min=2, max=2**16)
    # Sizes of 1 would be traced as constants. What is traced at 2 and more holds for 1 as well: the graphs have no
    # checks of sizes, and nothing in a tower depends on whether such a size is 1.
    if tower == "video":
        video = model.config.video_config
        step, fixed = frame_rule(model.config)
        frames = {} if fixed else {1: step * Dim("windows", min=2, max=2**16)}
        shape = (2, step if fixed else 2 * step, video.num_channels, *video.image_size)
        arguments: tuple[torch.Tensor, ...] = (torch.randn(shape),)
        sizes: dict[int, Any] = {0: batch, **frames}
        module: nn.Module = VideoTower(model)
    else:
        text = model.config.text_config
        most_tokens = text.max_position_embeddings // text.max_sentences
        tokens = Dim("tokens", min=2, max=max(most_tokens, 3))
        sentences = {1: Dim("sentences", min=2, max=text.max_sentences)} if text.max_sentences > 1 else {}
        ids = torch.ones(2, min(2, text.max_sentences), min(most_tokens, 3), dtype=torch.long)
        arguments = (ids, torch.ones_like(ids))
        sizes = {0: batch, 2: tokens, **sentences}
        module = TextTower(model)
    backend = model.config._attn_implementation
    # Traced with fused attention, views rest on the strides of its kernel, which the decomposed graph does not have.
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad(), _silent():
            dynamic_shapes = tuple(sizes for _ in arguments)
            return torch.export.export(module.eval(), arguments, dynamic_shapes=dynamic_shapes, strict=False)
    finally:
        model.set_attn_implementation(backend)


def export_model(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    engine: str = "onnx",
    precision: str = "float32",
) -> Path:
    """Export both towers of a checkpoint, with configuration and processor, to a new folder.

    The folder appears under its name when it is complete.

    Args:
        checkpoint: Folder or repository on the Hub, with its processor. Its weights are read as float32.
        output: Folder to write; must not exist.
        engine: "onnx" or "openvino". Defaults to "onnx".
        precision: "float32", "float16" or "int8". Defaults to "float32".

    Returns:
        The folder.

    Raises:
        ValueError: An argument is unknown, the folder exists, or the checkpoint is not LF-VILA, lacks weights, or has
            no text and video projections.
        ImportError: The engine is not installed.
    """
    import lfvila_hf
    from lfvila_hf.search.encoders import load_encoder

    folder = Path(output)
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty. Give another output folder, or delete it")
    package = _check_installed(engine, precision)
    encoder: Any = load_encoder(os.fspath(checkpoint), dtype="float32")  # it checks weights, vocabulary, projections
    model = getattr(encoder, "model", None)
    if not isinstance(model, LFVilaModel):
        kind = type(model if model is not None else encoder).__name__
        raise ValueError(f"{checkpoint} is a {kind}: only checkpoints of LF-VILA are exported")
    step, fixed = frame_rule(model.config)

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        model.config.save_pretrained(partial)
        encoder.processor.save_pretrained(partial)
        with tempfile.TemporaryDirectory(dir=partial) as work:
            for tower in TOWERS:
                graph = Path(work) / f"{tower}.onnx"
                write_graph(model.eval(), tower, graph)
                store_graph(graph, partial, engine, precision)
        files = sorted(path for path in partial.iterdir() if path.name.partition(".")[0] in ("config", *TOWERS))
        Manifest(
            engine=engine,
            precision=precision,
            frames_multiple=step,
            frames_fixed=fixed,
            files={path.name: describe_file(path) for path in files},
            lfvila_hf=lfvila_hf.__version__,
            engine_version=version(package),
        ).write(partial)
        partial.chmod(0o777 & ~_umask())
        if folder.is_dir():
            folder.rmdir()  # it is empty
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def write_graph(model: LFVilaModel, tower: str, path: Path) -> None:
    """Write one tower as a float32 ONNX graph, its weights in a file beside it.

    Args:
        model: In evaluation mode, in float32, on the CPU.
        tower: "video" or "text".
        path: File to write, `*.onnx`.
    """
    inputs = [name for name in TOWERS[tower] if not name.endswith("embeds")]
    outputs = [name for name in TOWERS[tower] if name.endswith("embeds")]
    outputs = outputs if model.clip_projection is not None else outputs[:1]
    with _silent():
        program = torch.onnx.export(
            trace_tower(model, tower),
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    assert program is not None  # given with dynamo=True
    for node in program.model.graph.all_nodes():  # stack traces with the paths of this machine
        node.metadata_props.clear()
    program.save(path, external_data=True)


def store_graph(graph: Path, folder: Path, engine: str, precision: str) -> None:
    """Store a float32 ONNX graph for an engine, in a precision: `NAME.onnx` and its data, or `NAME.xml` and `NAME.bin`.

    Args:
        graph: The graph.
        folder: Folder to write into; not that of the graph.
        engine: "onnx" or "openvino".
        precision: "float32", "float16" or "int8".
    """
    store = {"onnx": _store_onnx, "openvino": _store_openvino}[engine]
    store(graph, folder / f"{graph.stem}{ENGINES[engine]}", precision)


def _store_onnx(graph: Path, target: Path, precision: str) -> None:
    """Store an ONNX graph in a precision, its weights in a file beside it."""
    import onnx

    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with _silent():
            quantize_dynamic(
                graph,
                target,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=True,
            )
        return
    model = onnx.load(graph)
    if precision == "float16":
        _store_in_half(model)
    onnx.save_model(model, target, save_as_external_data=True, location=f"{target.name}.data", size_threshold=1024)


def _store_in_half(model: Any) -> None:
    """Replace the float32 weights of an ONNX model by float16 ones that are cast back where they are used."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and math.prod(weight.dims) >= 256:
            name, values = weight.name, numpy_helper.to_array(weight)
            if np.abs(values).max() > np.finfo("float16").max:
                continue
            weight.CopyFrom(numpy_helper.from_array(values.astype("float16"), f"{name}.float16"))
            cast = onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT)
            model.graph.node.insert(0, cast)


def _store_openvino(graph: Path, target: Path, precision: str) -> None:
    """Convert an ONNX graph to OpenVINO in a precision."""
    import openvino

    model = openvino.Core().read_model(graph)  # `convert_model` would report its use to OpenVINO's makers
    if precision == "int8":
        os.environ.setdefault("NNCF_CI", "1")  # or it reports its use
        with _silent():
            import nncf

            nncf.set_log_level(logging.ERROR)
            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(model, target, compress_to_fp16=precision == "float16")


def _check_installed(engine: str, precision: str) -> str:
    """Import the packages of an engine; return the name of the one that stamps the manifest."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401 -- torch's exporter needs it

        if engine == "onnx":
            import onnxruntime  # noqa: F401
        else:
            import openvino  # noqa: F401

            if precision == "int8" and find_spec("nncf") is None:
                raise ModuleNotFoundError("nncf is not installed", name="nncf")
    except ImportError as error:
        message = f"exporting to {engine} needs more packages: pip install 'lfvila_hf[{engine}]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    return "onnxruntime" if engine == "onnx" else "openvino"


def _umask() -> int:
    """Return the process's mask of permissions; the temporary folder was made for its owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the progress and warnings of exporters off the terminal; what fails raises."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
