# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Engines that run the tasks of a stage: in this process, in several of this machine, or on a Ray cluster.

An engine runs `function(plan, item)` for every item and returns the results in the order of the items. The functions
are those of `stages`. They exchange data through files, so the output cannot depend on the engine. Worker processes
are started by a fork server that has imported the stages, so they share the memory of those imports.

With Ray, each stage is a `map` over a Ray Data set of task numbers: Ray places, retries and balances tasks. The folder
of the corpus must be on a file system that all nodes share.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

TaskFunction = Callable[[Any, Any], Any]


class Engine(Protocol):
    """Interface of an engine."""

    name: str

    def run(self, function: TaskFunction, plan: Any, items: Sequence[Any]) -> Iterator[Any]:
        """Yield `function(plan, item)` for every item, in order."""
        ...

    def close(self) -> None:
        """Release processes and connections."""
        ...


class LocalEngine:
    """Engine that runs tasks in processes of this machine.

    Args:
        workers: Number of processes; 1 runs everything in this one. Defaults to the number of cores.
        preload: Modules that the fork server imports before it starts workers.
    """

    name = "local"

    def __init__(self, workers: int | None = None, preload: Sequence[str] = ("lfvila_hf.corpus.stages",)) -> None:
        self.workers = default_workers() if workers is None else workers
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        self._preload = list(preload)
        self._pool: ProcessPoolExecutor | None = None

    def run(self, function: TaskFunction, plan: Any, items: Sequence[Any]) -> Iterator[Any]:
        """Yield the results in order.

        Raises:
            ValueError: If a worker died, as it does when memory runs out.
        """
        if self.workers == 1:
            for item in items:
                yield function(plan, item)
            return
        try:
            yield from self._workers().map(function, [plan] * len(items), items)
        except BrokenProcessPool as error:
            self._pool = None
            raise ValueError(
                f"a worker of the stage {function.__name__} died, perhaps out of memory: use fewer than "
                f"{self.workers} workers"
            ) from error

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, mp_context=worker_context(self._preload))
        return self._pool


class RayEngine:
    """Engine that runs tasks on the nodes of a Ray cluster, through Ray Data.

    Args:
        address: Address of a running cluster. Defaults to the cluster that this process is connected to or that the
            environment names; else one is started on this machine.

    Raises:
        ImportError: If Ray is not installed.
    """

    name = "ray"

    def __init__(self, address: str | None = None) -> None:
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ImportError("the engine 'ray' needs Ray: pip install 'lfvila_hf[ray]'") from error
        self._ray = ray
        self._started = not ray.is_initialized()
        if self._started:
            ray.init(address=address, include_dashboard=False, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False

    def run(self, function: TaskFunction, plan: Any, items: Sequence[Any]) -> Iterator[Any]:
        """Yield the results in order. Each item is one block, so that every task can go to another node."""
        if not items:
            return
        shared = self._ray.put(plan)
        get = self._ray.get

        def answer(row: dict[str, Any]) -> dict[str, Any]:
            return {
                "place": row["place"],
                "answer": json.dumps(function(get(shared), json.loads(row["item"]))),
            }

        rows = [{"place": place, "item": json.dumps(item)} for place, item in enumerate(items)]
        tasks = self._ray.data.from_items(rows, override_num_blocks=len(rows))
        answers = {row["place"]: row["answer"] for row in tasks.map(answer).iter_rows()}
        for place in range(len(items)):
            yield json.loads(answers[place])

    def close(self) -> None:
        """Leave the cluster if this object joined it."""
        if self._started:
            self._ray.shutdown()


def make_engine(name: str, workers: int | None = None, address: str | None = None) -> Engine:
    """Return the engine of a name, `"local"` or `"ray"`.

    Raises:
        ValueError: If the name is another.
        ImportError: If Ray is not installed.
    """
    if name == "local":
        return LocalEngine(workers)
    if name == "ray":
        return RayEngine(address)
    raise ValueError(f"the engine must be 'local' or 'ray', got {name!r}")


def default_workers() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_context(preload: Sequence[str]) -> Any:
    """Return the start method of workers: a fork server if the system has one; this process is never forked."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context
