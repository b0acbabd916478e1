"""Dynamic batching: what waits becomes a batch, and an item at fault harms no other."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from lfvila_hf.serving.batching import Batcher


def test_what_waits_while_the_model_is_busy_is_the_next_batch() -> None:
    batches: list[list[int]] = []
    busy, go_on = threading.Event(), threading.Event()

    def run(items: list[int]) -> list[int]:
        batches.append(items)
        busy.set()
        assert go_on.wait(10)
        return [10 * item for item in items]

    async def main() -> list[int]:
        batcher = Batcher(run, max_batch=4)
        first = asyncio.create_task(batcher.submit(0))
        await asyncio.to_thread(busy.wait, 10)
        others = [asyncio.create_task(batcher.submit(item)) for item in range(1, 7)]
        await asyncio.sleep(0)
        go_on.set()
        found = await asyncio.gather(first, *others)
        assert await batcher.submit(7) == 70  # it starts again after it ran dry
        batcher.close()
        return found

    assert asyncio.run(main()) == [0, 10, 20, 30, 40, 50, 60]
    assert batches == [[0], [1, 2, 3, 4], [5, 6], [7]]


def test_only_the_item_at_fault_fails() -> None:
    def run(items: list[int]) -> list[int]:
        if 2 in items:
            raise ValueError("two is not taken")
        return items

    async def main() -> list[Any]:
        batcher = Batcher(run, max_batch=8)
        found = await asyncio.gather(*(batcher.submit(item) for item in range(5)), return_exceptions=True)
        batcher.close()
        return found

    found = asyncio.run(main())
    assert [one for place, one in enumerate(found) if place != 2] == [0, 1, 3, 4]
    assert str(found[2]) == "two is not taken"


def test_kinds_do_not_share_a_batch_and_keep_their_order() -> None:
    batches: list[list[str]] = []

    def run(items: list[str]) -> list[str]:
        batches.append(items)
        return items

    async def main() -> list[str]:
        batcher = Batcher(run, max_batch=8, kind_of=len)
        found = await asyncio.gather(*(batcher.submit(item) for item in ("a", "bb", "c", "dd", "e")))
        batcher.close()
        return found

    assert asyncio.run(main()) == ["a", "bb", "c", "dd", "e"]
    assert batches == [["a", "c", "e"], ["bb", "dd"]]


def test_an_item_whose_caller_has_gone_is_not_run() -> None:
    ran: list[int] = []
    busy, go_on = threading.Event(), threading.Event()

    def run(items: list[int]) -> list[int]:
        ran.extend(items)
        busy.set()
        assert go_on.wait(10)
        return items

    async def main() -> None:
        batcher = Batcher(run, max_batch=1)
        tasks = [asyncio.create_task(batcher.submit(item)) for item in range(3)]
        await asyncio.to_thread(busy.wait, 10)
        tasks[1].cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert await tasks[2] == 2
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        batcher.close()

    asyncio.run(main())
    assert ran == [0, 2]
