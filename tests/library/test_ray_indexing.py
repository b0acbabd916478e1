"""Indexing on a Ray cluster of two nodes on this machine: the index of one process, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_library import RULE, make_checkpoint, make_model, make_processor, make_videos

from lfvila_hf.library.indexing import index_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one processor each."""
    from ray.cluster_utils import Cluster

    paths = os.pathsep.join(
        [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    )
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [paths, os.environ.get("PYTHONPATH")]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def one_process(folder: Path, vocabulary: dict[str, int]) -> tuple[Any, Any, dict[str, Any]]:
    """Model, processor and arguments of an index; the index of one process is in `folder / "one"`."""
    make_videos(folder / "videos", (40,) * 8)
    (folder / "videos" / "broken.mp4").write_bytes(b"no video")
    checkpoint = str(make_checkpoint(folder / "checkpoint", vocabulary))
    model, processor = make_model(vocabulary), make_processor(vocabulary)
    every: dict[str, Any] = {"checkpoint": checkpoint, "rule": RULE}
    index_folder(folder / "videos", folder / "one", model, processor, **every)
    return model, processor, every


def test_a_cluster_of_two_nodes_makes_the_index_of_one_process(
    cluster: Any, tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    from lfvila_hf.library.ray_indexing import RayEmbedding

    model, processor, every = one_process(tmp_path, tiny_vocabulary)
    embedding = RayEmbedding(every["checkpoint"], RULE, actors=1)
    report = index_folder(tmp_path / "videos", tmp_path / "ray", model, processor, embed=embedding, **every)
    assert report is not None and report.videos == 8 and [one.path for one in report.problems] == ["broken.mp4"]
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


def test_a_worker_that_is_killed_is_replaced_and_the_index_is_the_same(
    cluster: Any, tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    from lfvila_hf.library.ray_indexing import RayEmbedding

    model, processor, every = one_process(tmp_path, tiny_vocabulary)
    killed: list[int] = []

    def kill_an_actor() -> None:
        work = tmp_path / "killed" / "work"
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and not [name for name in work.rglob("*.parquet") if name.name[0] != "."]:
            time.sleep(0.02)
        for process in psutil.Process().children(recursive=True):  # the cluster's processes are this one's children
            if any("MapWorker" in word for word in process.cmdline()[:1]):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                return

    killer = threading.Thread(target=kill_an_actor, daemon=True)
    killer.start()
    embedding = RayEmbedding(every["checkpoint"], RULE, actors=1)
    report = index_folder(tmp_path / "videos", tmp_path / "killed", model, processor, embed=embedding, **every)
    killer.join(10)
    assert len(killed) == 1, "no worker was killed"
    assert report is not None and report.videos == 8
    assert contents(tmp_path / "killed") == contents(tmp_path / "one")


def test_no_actor_is_refused() -> None:
    from lfvila_hf.library.ray_indexing import RayEmbedding

    with pytest.raises(ValueError, match="actors must be at least 1, got 0"):
        RayEmbedding("absent", RULE, actors=0)
