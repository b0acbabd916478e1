"""Conversion of a released checkpoint to a folder for `from_pretrained`: configuration, safetensors, processor.

The folder is written atomically: to a temporary folder beside it, which is renamed at the end.

Memory: about once the size of the checkpoint (benchmarks/conversion_memory.py measures it). The checkpoint is
memory-mapped, safetensors writes its tensors directly, and no model is built. Another dtype or new parts cost a copy.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lfvila_hf.configuration_lfvila import LFVilaConfig
from lfvila_hf.conversion.checkpoint_files import read_state_dict
from lfvila_hf.conversion.original import config_from_original, processor_settings, read_original
from lfvila_hf.conversion.released import FUSING_TASKS, TASKS, map_checkpoint, meta_model
from lfvila_hf.conversion.report import ConversionReport, report_on
from lfvila_hf.conversion.towers import bert_state, quiet, read_bert, read_swin
from lfvila_hf.processing_lfvila import LFVilaProcessor
from lfvila_hf.video_processing_lfvila import LFVilaVideoProcessor

# Tokenizer of the release, with a vocabulary of 30,522 words.
DEFAULT_TOKENIZER = "bert-large-uncased"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
REPORT_FILE = "conversion_report.json"


def convert_checkpoint(
    checkpoint: str | Path,
    original_config: str | Path,
    task: str,
    output_dir: str | Path,
    *,
    tokenizer: str | None = DEFAULT_TOKENIZER,
    bert_config: str | Path | None = None,
    bert: str | None = None,
    swin: str | None = None,
    dtype: str | None = None,
    max_sentences: int | None = None,
    max_sentence_length: int | None = None,
    **config_overrides: Any,
) -> ConversionReport:
    """Convert a released checkpoint.

    Args:
        checkpoint: The released `.bin`, or a folder with one `pytorch_model.bin`.
        original_config: The released YAML of the task.
        task: One of `TASKS`.
        output_dir: Folder to write; it must be empty or not exist.
        tokenizer: Folder or repository of the tokenizer; `None` writes the video processor alone. Defaults to
            "bert-large-uncased".
        bert_config: The BERT json. Defaults to the file that the YAML names.
        bert: Folder or repository of a BERT that missing cross-modal layers start from. Defaults to random weights.
        swin: The Swin that pre-training started from, to find out whether the clip projection was trained. Defaults to
            a comparison inside the checkpoint.
        dtype: "float16", "bfloat16" or "float32". Defaults to the checkpoint's (its widest).
        max_sentences: Sentences that the processor keeps apart. Defaults to those of the released data set.
        max_sentence_length: Tokens of a sentence. Defaults to those of the released data set.
        **config_overrides: Fields of `LFVilaConfig` that replace the YAML's.

    Returns:
        Report of the conversion, also written to the folder as `conversion_report.json`.

    Raises:
        ValueError: An argument, a file or its content is invalid. Nothing is written then.
    """
    output = Path(output_dir)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: exists and is not empty, nothing was written; pass a new or empty folder")
    if task not in TASKS:
        raise ValueError(f"task must be one of {sorted(TASKS)}, got {task!r}")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {sorted(DTYPES)}, got {dtype!r}")
    with quiet(), _collected_warnings() as warnings:
        original = read_original(original_config, bert_config)
        config = config_from_original(original, task, **config_overrides)
        settings = processor_settings(original, task)
        for name, given in (("max_sentences", max_sentences), ("max_sentence_length", max_sentence_length)):
            if given is not None and given < 1:
                raise ValueError(f"{name} must be at least 1, got {given}")
            settings[name] = settings[name] if given is None else given
        processor = build_processor(config, tokenizer, settings)
        bert_parameters = bert_state_for(config, task, bert) if bert is not None else {}
        swin_parameters = None if swin is None else read_swin(swin)

        released = read_state_dict(checkpoint)
        mapped = map_checkpoint(released, config, task, initialise_new_parts=True, bert_layers=bert_parameters)
        model_class = TASKS[task].__name__
        written = widest_dtype(released) if dtype is None else DTYPES[dtype]
        dtype_name = str(written).removeprefix("torch.")
        report = report_on(mapped, released, config, str(checkpoint), task, model_class, dtype_name, swin_parameters)
        report.notes += [*warnings, *_tokenizer_notes(processor, config)]
        report.output_dir = str(output)
        del released
        with complete_folder(output) as folder:
            write_model(mapped.state, written, config, task, folder)
            processor.save_pretrained(folder)
            text = json.dumps(report.to_dict(), indent=1)
            (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    return report


def build_processor(config: LFVilaConfig, tokenizer: str | None, settings: dict[str, int]) -> Any:
    """Build the processor of a converted model.

    Args:
        config: Configuration of the model.
        tokenizer: Folder or repository of the tokenizer, or `None` for a video processor alone.
        settings: `max_sentences` and `max_sentence_length`.

    Raises:
        ValueError: The tokenizer cannot be loaded, or the sizes do not fit the model's positions.
    """
    video = config.video_config
    size = {"height": video.image_size[0], "width": video.image_size[1]}
    video_processor = LFVilaVideoProcessor(size=size, num_frames=video.num_frames, num_clips=video.num_clips)
    if tokenizer is None:
        return video_processor
    text = config.text_config
    tokens = settings["max_sentences"] * settings["max_sentence_length"]
    if settings["max_sentences"] > text.max_sentences or tokens > text.max_position_embeddings:
        raise ValueError(
            f"{settings['max_sentences']} sentences of {settings['max_sentence_length']} tokens do not fit the model's "
            f"{text.max_sentences} segments and {text.max_position_embeddings} positions; see --max-sentences and "
            "--max-sentence-length"
        )
    return LFVilaProcessor(
        video_processor,
        load_tokenizer(tokenizer),
        max_sentences=settings["max_sentences"],
        max_sentence_length=settings["max_sentence_length"],
    )


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer from a folder or the Hub.

    Raises:
        ValueError: It cannot be loaded; the message names the option that works without a network.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the library raises a dozen types here, from its own to the network's
        reason = " ".join(str(error).split())
        raise ValueError(
            f"cannot load the tokenizer {name!r}; without a network, pass a folder that holds it: --tokenizer PATH "
            f"({reason[:300]})"
        ) from error


def bert_state_for(config: LFVilaConfig, task: str, bert: str) -> dict[str, torch.Tensor]:
    """Read cross-modal layers from a BERT, under our names.

    Raises:
        ValueError: The task has no cross-modal encoder, or the BERT does not fit.
    """
    if config.text_config.num_cross_modal_layers == 0:
        fusing = ", ".join((*FUSING_TASKS, "pretraining (stage: 2)"))
        raise ValueError(f"--bert starts the cross-modal layers of {fusing}; this {task} model has none")
    state = bert_state(*read_bert(bert), config)
    return {name: tensor for name, tensor in state.items() if name.startswith("cross_modal_encoder.layers.")}


def widest_dtype(state: Mapping[str, torch.Tensor]) -> torch.dtype:
    """Return the floating-point dtype that all floating-point tensors of a state dict promote to."""
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    return functools.reduce(torch.promote_types, dtypes)


def write_model(
    state: Mapping[str, torch.Tensor], dtype: torch.dtype, config: LFVilaConfig, task: str, folder: Path
) -> None:
    """Write configuration and safetensors as `save_pretrained` does, without a model in memory."""
    model: Any = meta_model(config, task)
    model = model.to(dtype)
    # A new dictionary, because save_pretrained empties it while it writes.
    model.save_pretrained(folder, state_dict={name: tensor.to(dtype) for name, tensor in state.items()})


def push_folder(folder: str | Path, repo_id: str, private: bool | None = None) -> str:
    """Upload a converted folder to the Hub in one commit.

    Args:
        folder: The converted folder.
        repo_id: Name of the repository; it is created if it does not exist.
        private: Whether a new repository is private. Defaults to the Hub's setting.

    Returns:
        Address of the repository.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=url.repo_id, folder_path=str(folder), commit_message="Converted LF-VILA checkpoint")
    return str(url)


@contextmanager
def complete_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `output`: renamed to `output` if the block succeeds, deleted otherwise."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        yield folder
        _open_as_usual(folder)
        if output.exists():
            output.rmdir()  # empty, as was checked
        os.replace(folder, output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _open_as_usual(folder: Path) -> None:
    """Give a temporary folder and its files the permissions of new ones; `mkdtemp` grants the owner alone."""
    mask = os.umask(0)  # the mask cannot be read without setting it
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Collect the package's logged warnings, each once, instead of printing them."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text not in messages:
                messages.append(text)

    package = logging.getLogger("lfvila_hf")
    handler, propagate, level = Collector(logging.WARNING), package.propagate, package.level
    package.addHandler(handler)
    package.propagate = False
    package.setLevel(logging.WARNING)
    try:
        yield messages
    finally:
        package.removeHandler(handler)
        package.propagate, package.level = propagate, level


def _tokenizer_notes(processor: Any, config: LFVilaConfig) -> list[str]:
    """Describe a mismatch of tokenizer and word embeddings."""
    tokenizer = getattr(processor, "tokenizer", None)
    words = config.text_config.vocab_size
    if tokenizer is None or len(tokenizer) == words:
        return []
    consequence = "the model cannot read all of its tokens" if len(tokenizer) > words else "some words are never used"
    return [f"the tokenizer has {len(tokenizer)} tokens and the model {words} word embeddings: {consequence}"]
