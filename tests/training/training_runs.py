"""What the trainer tests share: pairs that need no file, pairs in real video files, arguments, and what a run did."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tiny_models import TEXT, VIDEO, random_ids, tiny_batch, tiny_config
from torch import nn
from transformers import TrainerCallback
from video_files import write_video

from lfvila_hf import LFVilaConfig, LFVilaProcessor, LFVilaTrainingArguments, LFVilaVideoProcessor
from lfvila_hf.data.annotations import load_retrieval
from lfvila_hf.data.streaming import write_shards

DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}


def dropout_config(**fields: Any) -> LFVilaConfig:
    """The tiny configuration with every kind of dropout switched on."""
    return tiny_config(video=DROPOUT | {"drop_path_rate": 0.3}, text=DROPOUT, **fields)


class TensorRows(torch.utils.data.Dataset):
    """Rows of a batch of tensors, without a file."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[index] for name, value in self.tensors.items()}


def pairs(count: int, equally_long: bool = False, **more: torch.Tensor) -> TensorRows:
    """That many paragraphs with their videos; with `equally_long`, all have the sentence lengths of the first."""
    batch = tiny_batch(count)
    if equally_long:
        batch["attention_mask"] = batch["attention_mask"][:1].expand_as(batch["attention_mask"]).clone()
        batch["input_ids"] = random_ids(*batch["attention_mask"].shape) * batch["attention_mask"]
    return TensorRows(**batch, **more)


def fusion_pairs(count: int, matched: bool = False) -> TensorRows:
    """Pairs with one masked token in every sentence; with `matched`, every other pair is said to be mismatched."""
    targets = torch.full((count, 4, 6), -100)
    targets[:, :, 1] = random_ids(count, 4, seed=5)
    given = {"vtm_targets": (torch.arange(count) % 2)} if matched else {}
    return pairs(count, mlm_targets=targets, **given)


def arguments(folder: Path, **fields: Any) -> LFVilaTrainingArguments:
    """Arguments of a small quiet run that saves nothing."""
    quiet = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    return LFVilaTrainingArguments(output_dir=str(folder), **(quiet | fields))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the weights that are not bit for bit the same."""
    assert before and before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def logged(trainer: Any, key: str = "loss") -> list[dict[str, float]]:
    """Log entries that hold `key`."""
    return [entry for entry in trainer.state.log_history if key in entry]


class Recorder:
    """Keeps the keyword arguments of every forward of a model in training mode."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[dict[str, Any]] = []
        model.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, model: nn.Module, _: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.training:
            self.calls.append(dict(kwargs))


class OnStep(TrainerCallback):
    """Calls a function in every step, after the gradients and before the optimizer."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.function()


def make_processor(tokenizer: Any) -> LFVilaProcessor:
    """A processor that fits the tiny model's videos."""
    height, width = VIDEO["image_size"]
    video_processor = LFVilaVideoProcessor(
        size={"height": height, "width": width}, num_frames=VIDEO["num_frames"], num_clips=VIDEO["num_clips"]
    )
    length = TEXT["max_position_embeddings"] // 4
    return LFVilaProcessor(video_processor, tokenizer, max_sentences=4, max_sentence_length=length)


def write_rows(folder: Path, count: int) -> Any:
    """`count` real videos with paragraphs of four sentences, as `load_retrieval` gives them."""
    rows = []
    for number in range(count):
        write_video(folder / f"v_{number}.mp4", 24, size=(48, 80), first_number=100 * number)
        story = [f"a man rides in box {number}", "the ball is red", f"then it is {number}", "a square and a circle"]
        rows.append({"clip_id": f"v_{number}", "text": story})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_retrieval(path, folder)


def write_stream_shards(folder: Path, rows: int, rows_per_shard: int) -> Path:
    """Shards of that many rows, each a long video of four clips; gives the folder."""
    folder.mkdir(parents=True)
    written = []
    for number in range(rows):
        clips = [str(folder / f"{number}-{clip}.mp4") for clip in range(4)]
        for place, clip in enumerate(clips):
            write_video(Path(clip), 4, size=(48, 80), first_number=40 * number + 4 * place)
        sentences = [f"the man is in box {number}", "he rides", "the ball is red", f"then it is {number}"]
        written.append({"id": f"w_{number}", "clips": clips, "sentences": sentences})
    write_shards(written, folder, "webdataset", rows_per_shard)
    return folder
