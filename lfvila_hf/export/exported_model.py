# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Run an exported LF-VILA in ONNX Runtime or OpenVINO: `ExportedLFVila`.

Letters: B batch, T frames, K clips, M sentences, L tokens, H W pixels, D shared width.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lfvila_hf.configuration_lfvila import LFVilaConfig
from lfvila_hf.export.manifest import ENGINES, TOWERS, Manifest, read_manifest
from lfvila_hf.modeling_base_lfvila import LFVilaOutput, LFVilaTextModelOutput, LFVilaVideoModelOutput
from lfvila_hf.modeling_lfvila import LFVilaModel

INT8_FLAGS = ("avx512_vnni", "avx_vnni")
"""Instructions of x86 processors without which sums of 8-bit products can overflow 16 bits."""

Run = Callable[[tuple[np.ndarray, ...]], list[np.ndarray]]


class ExportedLFVila(nn.Module):
    """LF-VILA of an exported folder, in place of an `LFVilaModel` where embeddings are wanted.

    `encode_videos`, `encode_paragraphs`, the search with its page and API, and `lfvila-hf serve` take it. It runs on
    the CPU, gives float32, has no gradients and no parameters; its buffer `digest` is a SHA-256 of the graphs, so that
    an index knows which export it was made with.

    Args:
        folder: Folder that `lfvila-hf export` wrote.
        num_threads: Threads of the engine. Defaults to `torch.get_num_threads()`.

    Raises:
        ValueError: The folder is no export, is damaged, or of another version; or it is int8 and the processor lacks
            the instructions.
        ImportError: The engine is not installed.
    """

    digest: torch.Tensor

    def __init__(self, folder: str | os.PathLike[str], num_threads: int | None = None) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        if self.manifest.precision == "int8":
            check_int8()
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {num_threads}")
        self.manifest.check_files(self.folder)
        self.config = LFVilaConfig.from_pretrained(self.folder)
        self.register_buffer("digest", torch.frombuffer(bytearray(self.manifest.digest()), dtype=torch.uint8))
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._run: dict[str, Run] = {}
        for tower in TOWERS:
            try:
                self._run[tower] = load_graph(self.folder / f"{tower}{ENGINES[self.manifest.engine]}", num_threads)
            except ImportError as error:
                engine = self.manifest.engine
                message = f"{self.folder} needs the engine {engine}: pip install 'lfvila_hf[{engine}]'"
                raise ModuleNotFoundError(message, name=error.name) from error
            except Exception as error:  # the engines have errors of their own
                raise ValueError(
                    f"the graph of the {tower} tower in {self.folder}, written with {self.manifest.engine} "
                    f"{self.manifest.engine_version}, cannot be loaded: {str(error).strip().splitlines()[-1]}"
                ) from error
        self.eval()

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], num_threads: int | None = None) -> ExportedLFVila:
        """Open an exported folder; arguments and errors as of the class."""
        return cls(folder, num_threads)

    # The same arithmetic on the same names; it reads nothing of the model.
    similarity: Any = LFVilaModel.similarity

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, return_dict: bool = True
    ) -> LFVilaTextModelOutput:
        """Embed paragraphs.

        Args:
            input_ids: `(B, M, L)`; `(B, L)` is one sentence per paragraph.
            attention_mask: Same shape, 1 for real tokens. Defaults to all ones.
            return_dict: Only True.

        Returns:
            Output with `text_embeds (B, D)`, `sentence_mask (B, M)` and, with `temporal_alignment`,
            `sentence_embeds (B, M, D)`.

        Raises:
            ValueError: Shapes do not fit each other or the model, or an id is not in the vocabulary.
        """
        if not return_dict:
            raise ValueError("an exported model returns no tuples: leave return_dict=False out")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if input_ids.ndim == 2 and mask.ndim == 2:
            input_ids, mask = input_ids[:, None], mask[:, None]
        text = self.config.text_config
        if input_ids.ndim != 3 or 0 in input_ids.shape or mask.shape != input_ids.shape:
            raise ValueError(
                f"input_ids and attention_mask must both be (B, M, L) or (B, L), none of them 0, got "
                f"{tuple(input_ids.shape)} and {tuple(mask.shape)}"
            )
        _, sentences, tokens = input_ids.shape
        if sentences > text.max_sentences or sentences * tokens > text.max_position_embeddings or tokens < 2:
            raise ValueError(
                f"{sentences} sentences of {tokens} tokens do not fit: the model takes at most {text.max_sentences} "
                f"sentences of at least 2 tokens, together at most {text.max_position_embeddings}. Pass fewer or "
                f"shorter sentences"
            )
        if int(input_ids.min()) < 0 or int(input_ids.max()) >= text.vocab_size:  # OpenVINO would read beyond the table
            raise ValueError(
                f"input_ids must lie in 0 to {text.vocab_size - 1}, got {int(input_ids.min())} to "
                f"{int(input_ids.max())}: use the processor of this folder"
            )
        embeds: dict[str, Any] = self._embed("text", input_ids.long(), mask.long())
        return LFVilaTextModelOutput(sentence_mask=mask.any(-1).long(), **embeds)

    def get_video_features(
        self, pixel_values_videos: torch.Tensor, num_clips: int | None = None, return_dict: bool = True
    ) -> LFVilaVideoModelOutput:
        """Embed videos.

        Args:
            pixel_values_videos: Normalised frames `(B, T, 3, H, W)`, H and W those of the configuration, T as
                `check_frames` says.
            num_clips: K; only that of the configuration. Defaults to it.
            return_dict: Only True.

        Returns:
            Output with `video_embeds (B, D)` and, with `temporal_alignment`, `clip_embeds (B, K, D)`.

        Raises:
            ValueError: The shape or type is none that the export takes.
        """
        if not return_dict:
            raise ValueError("an exported model returns no tuples: leave return_dict=False out")
        video = self.config.video_config
        if num_clips not in (None, video.num_clips):
            raise ValueError(f"num_clips={num_clips} differs from the exported {video.num_clips}. Leave it out")
        shape, size = tuple(pixel_values_videos.shape), (video.num_channels, *video.image_size)
        if len(shape) != 5 or shape[2:] != size or 0 in shape:
            raise ValueError(
                f"pixel_values_videos must be (B, T, {', '.join(map(str, size))}), got {shape}: the export takes "
                f"frames of this size only. Use the processor of this folder"
            )
        if not pixel_values_videos.is_floating_point():
            raise ValueError(
                f"pixel_values_videos must be normalised floating-point pixels (the processor's output), got "
                f"{pixel_values_videos.dtype}"
            )
        self.check_frames(shape[1])
        embeds: dict[str, Any] = self._embed("video", pixel_values_videos.float())
        return LFVilaVideoModelOutput(**embeds)

    def check_frames(self, num_frames: int) -> None:
        """Check a number of frames.

        Raises:
            ValueError: The export does not take T frames.
        """
        step, fixed = self.manifest.frames_multiple, self.manifest.frames_fixed
        if num_frames != step and (fixed or num_frames % step):
            takes = f"{step} frames only" if fixed else f"multiples of {step} frames, which its windows tile"
            raise ValueError(
                f"num_frames={num_frames}: this export takes {takes}. Pass such a number to the processor, or export a "
                f"checkpoint whose windows fit (model.set_num_frames)"
            )

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
    ) -> LFVilaOutput:
        """Embed paragraphs and videos; shapes as in `LFVilaModel.forward`. There is no loss.

        Raises:
            ValueError: A modality is missing, or a shape does not fit.
        """
        forward: Any = LFVilaModel.forward  # without a loss it reads nothing but the methods above
        return forward(self, input_ids, attention_mask, pixel_values_videos, return_loss=False, return_dict=True)

    def to(self, *args: Any, **kwargs: Any) -> ExportedLFVila:
        """Return the model; it stays on the CPU and in its precision.

        Raises:
            ValueError: Another device or precision is asked for.
        """
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None and device.type != "cpu":
            raise ValueError(f"an exported model runs on the CPU, not on {device}: pass device cpu, or the checkpoint")
        if dtype not in (None, torch.float32):
            raise ValueError(f"an exported model keeps its precision, got {dtype}: export with another precision")
        return self

    def _embed(self, tower: str, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run a graph; returns its outputs by name."""
        if torch.is_autocast_enabled("cpu"):
            raise ValueError("an exported model keeps its precision: leave dtype (autocast) out, or export again")
        arrays = self._run[tower](tuple(one.detach().cpu().contiguous().numpy() for one in inputs))
        names = [name for name in TOWERS[tower] if name.endswith("embeds")]
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=False)}


def check_int8() -> None:
    """Check that this processor multiplies 8-bit integers without overflow.

    Raises:
        ValueError: It is an x86 processor without VNNI, or the installed PyTorch cannot tell.
    """
    if not hasattr(torch.cpu, "get_capabilities"):
        raise ValueError(
            f"int8 needs a processor with VNNI, and PyTorch {torch.__version__} cannot tell whether this one has it. "
            "Install a newer PyTorch, or export in float32"
        )
    known = torch.cpu.get_capabilities()
    if known.get("architecture") == "x86_64" and not any(known.get(flag) for flag in INT8_FLAGS):
        raise ValueError(
            f"int8 needs a processor with VNNI ({' or '.join(INT8_FLAGS)}), this one "
            f"({known.get('cpu_name', 'unknown')}) has none: its 8-bit products can overflow. "
            "Export in float32"
        )


def load_graph(graph: Path, num_threads: int | None = None) -> Run:
    """Load a graph in the engine of its suffix; returns a function from arrays to arrays, for any thread.

    Args:
        graph: `*.onnx` or `*.xml`.
        num_threads: Threads of the engine. Defaults to `torch.get_num_threads()`.
    """
    return (_load_onnx if graph.suffix == ".onnx" else _load_openvino)(graph, num_threads)


def _load_onnx(graph: Path, num_threads: int | None) -> Run:
    """Load a graph in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


@functools.cache
def _openvino_core() -> Any:
    """Return OpenVINO's core, kept as long as the process runs.

    Its CPU plugin gives the thread that compiles a signal stack, and frees it with the last graph. Were that freed by
    another thread, the first thread's next signal would end the process.
    """
    import openvino

    return openvino.Core()


def _load_openvino(graph: Path, num_threads: int | None) -> Run:
    """Load a graph in OpenVINO."""
    # Where the processor has bfloat16, OpenVINO would compute in it.
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # a pinned thread waits for its core while others are free
        "INFERENCE_NUM_THREADS": num_threads or torch.get_num_threads(),
    }
    compiled = _openvino_core().compile_model(graph, "CPU", settings)
    lock = threading.Lock()  # one set of buffers; a second call at the same time would be refused

    def run(arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        with lock:
            outputs = compiled(arrays)
            return [outputs[place].copy() for place in range(len(compiled.outputs))]

    return run
