# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Dynamic batching: what waits while the model is busy is its next batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Batcher:
    """Runs a function on batches of waiting items, one batch at a time, in a thread of its own.

    There is no delay: an item that comes to an idle model is a batch of one, and batches grow with the load. If a batch
    fails, its items are run one by one, so that only the item at fault gets the error.

    Args:
        run: Takes a list of items and returns a list of results.
        max_batch: Most items of a batch.
        kind_of: Items of different kind do not share a batch. Defaults to one kind.
        observe: Called with the size of every batch. Defaults to nothing.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], list[Any]],
        max_batch: int,
        kind_of: Callable[[Any], Hashable] = lambda item: None,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.run, self.max_batch, self.kind_of, self.observe = run, max_batch, kind_of, observe
        self.waiting: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self.thread = ThreadPoolExecutor(1)
        self.task: asyncio.Task[None] | None = None

    async def submit(self, item: Any) -> Any:
        """Return the result of an item; a caller that is cancelled takes its item out of the queue."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append((item, future))
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        """Run batches until nothing waits."""
        while batch := self._next():
            try:
                self.observe(len(batch))
                await self._run(batch)
            except Exception as error:  # a batch of one: the item's own error
                if len(batch) == 1:
                    _set(batch[0][1], error)
                    continue
                for one in batch:
                    try:
                        await self._run([one])
                    except Exception as own:
                        _set(one[1], own)

    async def _run(self, batch: list[tuple[Any, asyncio.Future[Any]]]) -> None:
        items = [item for item, _ in batch]
        results = await asyncio.get_running_loop().run_in_executor(self.thread, self.run, items)
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():  # its caller may have gone
                future.set_result(result)

    def _next(self) -> list[tuple[Any, asyncio.Future[Any]]]:
        """Take the first waiting item and others of its kind; those whose caller has gone are dropped."""
        batch: list[tuple[Any, asyncio.Future[Any]]] = []
        others: list[tuple[Any, asyncio.Future[Any]]] = []
        while self.waiting and len(batch) < self.max_batch:
            one = self.waiting.popleft()
            if one[1].done():
                continue
            same = not batch or self.kind_of(one[0]) == self.kind_of(batch[0][0])
            (batch if same else others).append(one)
        self.waiting.extendleft(reversed(others))
        return batch

    def close(self) -> None:
        """Stop the thread after its batch."""
        self.thread.shutdown(wait=False, cancel_futures=True)


def _set(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
