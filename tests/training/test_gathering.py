"""The batch of all processes (gathering.py, objectives.py): features and gradients, neighbours' videos, uneven shares.

Processes are forked and talk through gloo. What the trainer makes of it is tested in test_whole_batches.py.
"""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch.nn import functional as F

from lfvila_hf.loss_lfvila import LFVilaLoss, draw_mtc, mismatched_pairs
from lfvila_hf.training.gathering import GlobalBatch, global_batches, mismatched_videos
from lfvila_hf.training.objectives import contrastive_shares

WIDTH, SENTENCES = 12, 4
SIZES = [(4, 4), (5, 3), (1, 7), (2, 2, 2, 2), (3, 2, 2, 1), (8,)]


def run(sizes: tuple[int, ...], folder: Path, task: Callable[[int], Any]) -> list[Any]:
    """What `task(rank)` gives in each of the processes."""
    if len(sizes) == 1:
        return [task(0)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"

    def child(rank: int) -> None:
        try:
            dist.init_process_group("gloo", init_method=address, rank=rank, world_size=len(sizes))
            torch.save(task(rank), folder / f"{rank}.pt")
            dist.barrier()
        except BaseException:
            (folder / f"error-{rank}").write_text(traceback.format_exc())
            raise

    context = torch.multiprocessing.get_context("fork")
    processes = [context.Process(target=child, args=(rank,)) for rank in range(len(sizes))]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert all(process.exitcode == 0 for process in processes), [p.read_text() for p in folder.glob("error-*")]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(len(sizes))]


def slice_of(sizes: tuple[int, ...], rank: int) -> slice:
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


def features(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)

    def normal(*shape: int) -> torch.Tensor:
        return F.normalize(torch.randn(8, *shape, WIDTH, generator=generator, dtype=dtype), dim=-1)

    mask = torch.ones(8, SENTENCES)
    mask[[1, 6], -1] = 0  # two videos that take no part in MTC, in different processes
    return {
        "text_embeds": normal(),
        "video_embeds": normal(),
        "sentence_embeds": normal(SENTENCES),
        "clip_embeds": normal(SENTENCES),
        "sentence_mask": mask,
    }


def leaves(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: v.detach().clone().requires_grad_() if "embeds" in name else v for name, v in values.items()}


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("block", [None, 2])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_shares_of_processes_make_the_loss_and_the_gradient_of_the_whole_batch(
    sizes: tuple[int, ...], block: int | None, released: bool, tmp_path: Path
) -> None:
    criterion = LFVilaLoss()
    criterion.other_negatives = "released" if released else "others"
    draw = draw_mtc(8, SENTENCES, seed=5)
    whole = leaves(features())
    expected = criterion.terms({**whole, "mtc_draw": draw})
    criterion.total(expected).backward()
    assert all(v.grad is not None and v.grad.abs().max() > 1e-3 for n, v in whole.items() if "embeds" in n)

    def task(rank: int) -> Any:
        mine = slice_of(sizes, rank)
        local = leaves({name: value[mine] for name, value in features().items()})
        own_draw = draw_mtc(sizes[rank], SENTENCES, seed=5, first_sample=mine.start)
        (batch,) = global_batches([sizes[rank]])
        assert batch == GlobalBatch(sizes, rank)
        shares = contrastive_shares(criterion, local, own_draw, batch, block)
        criterion.total(shares).backward()
        return {n: v.detach() for n, v in shares.items()}, {n: v.grad for n, v in local.items() if "embeds" in n}

    found = run(sizes, tmp_path, task)
    for name, value in expected.items():
        mean = torch.stack([shares[name] for shares, _ in found]).mean()
        torch.testing.assert_close(mean, value.detach(), rtol=1e-12, atol=0)
    for name, value in whole.items():
        if "embeds" in name:  # what DistributedDataParallel averages
            gradient = torch.cat([gradients[name] for _, gradients in found]) / len(sizes)
            torch.testing.assert_close(gradient, value.grad, rtol=1e-9, atol=1e-12)


def test_without_clip_features_there_is_the_global_term_alone() -> None:
    both = {name: value for name, value in features().items() if name in ("text_embeds", "video_embeds")}
    shares = contrastive_shares(LFVilaLoss(), both, None, GlobalBatch((8,)))
    torch.testing.assert_close(shares, LFVilaLoss().terms(both))
    with pytest.raises(ValueError, match="no draw"):
        contrastive_shares(LFVilaLoss(), features(), None, GlobalBatch((8,)))


def test_float32_features_get_the_gradient_of_float64_but_for_its_last_rounding() -> None:
    rounded = {n: v.float() if "embeds" in n else v for n, v in features().items()}
    wide = leaves({n: v.double() if "embeds" in n else v for n, v in rounded.items()})
    narrow, draw, criterion = leaves(rounded), draw_mtc(8, SENTENCES, seed=5), LFVilaLoss()
    for values in (wide, narrow):
        criterion.total(contrastive_shares(criterion, values, draw, GlobalBatch((8,)))).backward()
    found = [name for name, value in narrow.items() if value.grad is not None]
    assert len(found) == 4
    for name in found:
        assert torch.equal(narrow[name].grad, wide[name].grad.float())


def test_a_gradient_that_a_local_gather_would_lose_is_there(tmp_path: Path) -> None:
    """The columns' gradient: with the features of others detached, it would be another one."""
    sizes = (4, 4)

    def task(rank: int) -> torch.Tensor:
        local = torch.arange(4.0).add(4 * rank).requires_grad_()
        everyone = GlobalBatch(sizes, rank).gather(local)
        assert everyone.tolist() == list(range(8))
        (everyone * (rank + 1) * torch.arange(8.0)).sum().backward()
        return local.grad

    found = torch.cat(run(sizes, tmp_path, task))
    assert found.tolist() == [3.0 * place for place in range(8)]


@pytest.mark.parametrize("sizes", [(4, 4), (5, 3), (1, 1, 6), (3, 2, 2, 1), (1, 1), (2, 1), (1,), (7,)], ids=str)
def test_neighbours_videos_are_those_of_the_whole_batch(sizes: tuple[int, ...], tmp_path: Path) -> None:
    total = sum(sizes)
    videos = torch.arange(float(total))[:, None].expand(total, 3).contiguous()
    index, targets = mismatched_pairs(total)

    def task(rank: int) -> Any:
        mine = slice_of(sizes, rank)
        return mismatched_videos(videos[mine], GlobalBatch(sizes, rank))

    found = run(sizes, tmp_path, task)
    assert torch.equal(torch.cat([paired for paired, _ in found]), videos[index])
    assert torch.equal(torch.cat([own for _, own in found]), targets)


def test_places_in_the_whole_batch() -> None:
    batch = GlobalBatch((3, 2, 4), rank=1)
    assert (batch.rows, batch.first, batch.total, batch.processes) == (2, 3, 9, 3)
    assert global_batches([5, 2]) == [GlobalBatch((5,)), GlobalBatch((2,))]
    alone = torch.ones(5, requires_grad=True)
    assert GlobalBatch((5,)).gather(alone) is alone and not GlobalBatch((5,)).sum(alone.sum()).requires_grad
