"""The engines: the Ray one on a local cluster of two nodes writes the same bytes as this process.

The local engine with several processes is tested in test_building.py.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpus_inputs import build, content_of, even_spans, rows_of, video_row

from lfvila_hf.corpus.engines import LocalEngine, RayEngine, default_workers, make_engine

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="needs Ray: pip install 'lfvila_hf[ray]'")


def videos() -> list[dict[str, Any]]:
    rows = [video_row(f"video{number:03d}", even_spans(4 + number % 5)) for number in range(60)]
    return [*rows, video_row("../evil", even_spans(4)), video_row("video003", [(500, 510)], first=90)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each on this machine; this process is connected to them."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    started = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    started.add_node(**node)
    ray.init(address=started.address, log_to_driver=False)
    yield started
    ray.shutdown()
    started.shutdown()


def node_of(plan: Any, item: Any) -> list[Any]:
    """The node that this runs on, after a while, so that the other one gets tasks too."""
    import time

    import ray

    time.sleep(0.3)
    return [plan, item, ray.get_runtime_context().get_node_id()]


@pytest.mark.slow
@needs_ray
def test_tasks_run_on_both_nodes_and_answer_in_order(cluster: Any) -> None:
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file
    engine = RayEngine()
    answers = list(engine.run(node_of, "plan", list(range(16))))
    engine.close()
    assert [answer[:2] for answer in answers] == [["plan", item] for item in range(16)]
    assert len({answer[2] for answer in answers}) == 2
    assert list(engine.run(node_of, "plan", [])) == []


@pytest.mark.slow
@needs_ray
def test_a_build_on_ray_writes_the_same_bytes(cluster: Any, tmp_path: Path) -> None:
    build(tmp_path / "one", videos(), engine=LocalEngine(1))
    build(tmp_path / "two", videos(), engine=RayEngine(), chunk_bytes=5000)
    one, two = (content_of(tmp_path / name / "corpus") for name in ("one", "two"))
    assert one == two
    assert len(rows_of(tmp_path / "one" / "corpus")) == 60
    assert (tmp_path / "two" / "corpus" / "provenance.json").read_text().count('"engine": "ray"') == 1


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_error_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=r"pip install 'lfvila_hf\[ray\]'"):
        make_engine("ray")


def test_engines_go_by_name() -> None:
    engine = make_engine("local", 3)
    assert isinstance(engine, LocalEngine)
    assert engine.workers == 3
    assert LocalEngine().workers == default_workers() >= 1
