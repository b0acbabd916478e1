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


def test_a_cluster_makes_the_index_of_one_process_also_when_a_worker_is_killed(
    cluster: Any, tmp_path: Path, tiny_vocabulary: dict[str, int]
) -> None:
    from lfvila_hf.library.ray_indexing import RayEmbedding

    make_videos(tmp_path / "videos", (40,) * 12)
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    checkpoint = str(make_checkpoint(tmp_path / "checkpoint", tiny_vocabulary))
    model, processor = make_model(tiny_vocabulary), make_processor(tiny_vocabulary)
    every: dict[str, Any] = {"checkpoint": checkpoint, "rule": RULE}
    index_folder(tmp_path / "videos", tmp_path / "one", model, processor, **every)
    embedding = RayEmbedding(checkpoint, RULE, actors=1)
    report = index_folder(tmp_path / "videos", tmp_path / "ray", model, processor, embed=embedding, **every)
    assert report is not None and report.videos == 12 and [one.path for one in report.problems] == ["broken.mp4"]
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")

    killed: list[int] = []

    def kill_an_actor() -> None:
        work = tmp_path / "killed" / "work"
        while not [name for name in work.rglob("*.parquet") if not name.name.startswith(".")]:
            time.sleep(0.05)
        for process in psutil.Process().children(recursive=True):  # the cluster's processes are this one's children
            if any("MapWorker" in word for word in process.cmdline()[:1]):
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)
                return

    killer = threading.Thread(target=kill_an_actor, daemon=True)
    killer.start()
    report = index_folder(tmp_path / "videos", tmp_path / "killed", model, processor, embed=embedding, **every)
    killer.join(5)
    assert len(killed) == 1, "no worker was killed"
    assert report is not None and report.videos == 12
    assert contents(tmp_path / "killed") == contents(tmp_path / "one")


def test_no_actor_is_refused() -> None:
    from lfvila_hf.library.ray_indexing import RayEmbedding

    with pytest.raises(ValueError, match="actors must be at least 1, got 0"):
        RayEmbedding("absent", RULE, actors=0)
