"""One optimisation step of the real `LFVilaTrainer` on 8 pairs, for any number of processes, and the gradient it makes.

`gradients(case, processes, folder)` forks the processes, which costs no import.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from sharding import fsdp_on_cpus, whole
from tiny_models import random_ids, tiny_config, tiny_model
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from training_runs import DROPOUT, OnStep, TensorRows, arguments, pairs
from transformers import TrainingArguments

from lfvila_hf import LFVilaForPreTraining, LFVilaModel, LFVilaTrainer
from lfvila_hf.loss_lfvila import random_keys

PAIRS = 8
# Its name before and after transformers 5.23.
NAMES = ("activation_checkpointing", "gradient_checkpointing")
CHECKPOINTING = next(name for name in NAMES if name in TrainingArguments.__dataclass_fields__)


class SampleDropout(TorchFunctionMode):
    """Dropout that drops the same things of a sample in any batch, to compare batches of other shapes.

    torch draws one mask for the whole tensor, so a sample's mask depends on its neighbours. While this mode is active,
    `F.dropout` and `torch.rand` inside forwards of `model` give numbers that are a hash of the paragraph's tokens, of
    how many draws the forward made before, and of the place in the sample. It needs tensors whose first axis is the
    samples, and eager attention, whose dropout is not inside a kernel.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.draws = 0
        self.dropped = 0
        self._keys: torch.Tensor | None = None
        self._calls = 0
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end)

    def _begin(self, _: nn.Module, __: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs["input_ids"].flatten(1)
        self._keys = (ids * torch.arange(1, ids.shape[1] + 1)).sum(1)  # (B,)
        self._calls = 0

    def _end(self, *_: Any) -> None:
        self._keys = None

    def _uniform(self, shape: tuple[int, ...]) -> torch.Tensor:
        assert self._keys is not None and shape[0] % len(self._keys) == 0
        self._calls += 1
        self.draws += 1
        count = torch.Size(shape).numel() // len(self._keys)
        return (random_keys(self._calls, 0, self._keys, count, 7) / 2**32).view(shape).float()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._keys is not None and function is F.dropout:
            values, rate, training = (*args, *kwargs.values())[:3]
            if not training or rate == 0:
                return values
            kept = self._uniform(tuple(values.shape)) >= rate
            self.dropped += int((~kept).sum())
            return values * kept / (1 - rate)
        if self._keys is not None and function is torch.rand:
            return self._uniform(tuple(args[0]))
        return function(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained, and in which parts. The pairs are the same in every case."""

    phase: str = "contrastive"
    batch_size: int = 8
    """Of one process."""
    rows: int = PAIRS
    accumulation: int = 1
    chunk: int | None = None
    block: int | None = None
    dropout: str = "none"
    """`none`, `torch` (its generator), `sample` (the same for a sample in any batch)."""
    attention: str = "eager"
    lora: bool = False
    checkpointing: bool = False
    dtype: str = "float32"
    autocast: bool = False
    given_pairs: bool = True
    alignment: bool = True
    model: str = "pretraining"
    optimizer: str = "sgd"
    sharded: bool = False
    """With FSDP 2; only where there are several processes."""


@dataclasses.dataclass
class Result:
    """What a step left behind, in the first process."""

    gradients: dict[str, torch.Tensor]
    log: dict[str, float]
    drops: int
    """Dropout masks drawn, where those can be counted."""


def rows_of(case: Case) -> TensorRows:
    """Pairs with paragraphs of five kinds, and one to three masked tokens in a sentence.

    Paragraphs are equally long where `SampleDropout` compares batches: text layers drop the columns that a batch does
    not use, so other paragraphs would shift its places.
    """
    equally_long = case.dropout == "sample"
    if case.phase == "contrastive":
        return pairs(case.rows, equally_long)
    targets = torch.full((case.rows, 4, 6), -100)
    for row in range(case.rows):
        targets[row, :, 1 : 2 + row % 3] = random_ids(4, 1 + row % 3, seed=row)
    given = {"vtm_targets": (torch.arange(case.rows) % 3 != 0).long()} if case.given_pairs else {}
    return pairs(case.rows, equally_long, mlm_targets=targets, **given)


def run(case: Case, folder: Path) -> Result:
    """One step in this process."""
    dropping = DROPOUT if case.dropout != "none" else {}
    video: dict[str, Any] = dropping | ({"drop_path_rate": 0.3} if dropping else {})
    config = tiny_config(video=video, text=dropping, temporal_alignment=case.alignment)
    config._attn_implementation = case.attention
    model: Any = tiny_model(LFVilaForPreTraining if case.model == "pretraining" else LFVilaModel, config, spread=0.05)
    model = model.to(getattr(torch, case.dtype))
    base, mode = model, None
    if case.model == "pretraining":
        model.set_training_phase(case.phase)
    if case.lora:
        from peft import LoraConfig, get_peft_model

        targets = ["query", "value", "qkv"] if case.phase == "contrastive" else r".*cross_modal_encoder.*(query|value)"
        torch.manual_seed(3)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    if case.dropout == "sample":
        mode = SampleDropout(base)
    rows = rows_of(case)
    rows.tensors["pixel_values_videos"] = rows.tensors["pixel_values_videos"].to(getattr(torch, case.dtype))
    found: dict[str, torch.Tensor] = {}

    def keep() -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.grad is not None]
        assert all(isinstance(parameter, DTensor) == case.sharded for _, parameter in named)
        found.update({name: whole(parameter.grad.detach()).clone() for name, parameter in named})

    trainer = LFVilaTrainer(
        model=model,
        args=arguments(
            folder,
            max_steps=1,
            learning_rate=0.0,
            optim=case.optimizer,
            max_grad_norm=0.0,
            train_sampling_strategy="sequential",
            per_device_train_batch_size=case.batch_size,
            gradient_accumulation_steps=case.accumulation,
            contrastive_chunk_size=case.chunk,
            contrastive_block_size=case.block,
            bf16=case.autocast,
            **({CHECKPOINTING: True} if case.checkpointing else {}),
        ),
        train_dataset=rows,
        callbacks=[OnStep(keep)],
    )
    with mode if mode is not None else contextlib.nullcontext():
        trainer.train()
    log = next(entry for entry in trainer.state.log_history if "loss" in entry)
    return Result(found, log, 0 if mode is None else mode.draws)


def gradients(case: Case, folder: Path, processes: int = 1) -> Result:
    """One step in that many processes."""
    folder.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        return run(case, folder)

    def task(rank: int) -> None:
        with fsdp_on_cpus() if case.sharded else contextlib.nullcontext():
            result = run(case, folder / f"rank-{rank}")
        if rank == 0:
            torch.save(result, folder / "result.pt")

    in_processes(processes, folder, task)
    return torch.load(folder / "result.pt", weights_only=False)


def in_processes(processes: int, folder: Path, task: Callable[[int], None]) -> None:
    """Call `task(rank)` in that many forked processes, as a launcher would have started them."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")
    started = [context.Process(target=_child, args=(task, folder, rank, processes, port)) for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(180)
    errors = "\n".join(path.read_text() for path in sorted(folder.glob("error-*")))
    assert all(process.exitcode == 0 for process in started), errors or [process.exitcode for process in started]


def _child(task: Callable[[int], None], folder: Path, rank: int, processes: int, port: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    try:
        task(rank)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def largest_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> tuple[float, str]:
    """The largest relative error of a parameter's gradient, and the parameter's name.

    The gradient of a key's bias is zero but for rounding, because softmax does not see it; it is compared with the
    gradient of the key's weight.
    """
    assert found.keys() == expected.keys() and expected
    errors = {}
    for name in expected:
        scale = expected[name].norm()
        if name.endswith("key.bias"):
            scale = expected[name.replace("bias", "weight")].norm()
        errors[name] = ((found[name] - expected[name]).norm() / scale).item()
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst
