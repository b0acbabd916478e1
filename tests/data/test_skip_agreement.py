"""Processes of a distributed run agree on what was skipped: by the log, by a data set, and in the Trainer.

Two processes of a gloo group are forked here. What one process does with a broken sample is tested in `test_skipping`
and `test_datasets`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from small_corpus import make_processor, write_json_lines, write_retrieval
from transformers import TrainerControl, TrainerState, TrainingArguments

from lfvila_hf.data.annotations import load_retrieval
from lfvila_hf.data.datasets import RetrievalDataset
from lfvila_hf.data.skip_agreement import SkipAgreement
from lfvila_hf.data.skipping import SkipLog
from lfvila_hf.video_reading_lfvila import LFVilaVideoError

pytestmark = pytest.mark.skipif(
    not (hasattr(os, "fork") and dist.is_available() and dist.is_gloo_available()), reason="needs fork and gloo"
)


def _run(rank: int, folder: Path, work: Callable[[int], Any]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    try:
        answer: dict[str, Any] = {"answer": work(rank)}
    except Exception as error:
        answer = {"error": type(error).__name__, "text": str(error), "trace": traceback.format_exc()}
    (folder / f"{rank}.json").write_text(json.dumps(answer))
    dist.destroy_process_group()


def in_two_processes(folder: Path, work: Callable[[int], Any]) -> list[dict[str, Any]]:
    """What `work(rank)` gives, or raises, in each of two processes of one group."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_run, args=(rank, folder, work)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("shared", [False, True])
def test_every_process_knows_what_the_others_skipped(tmp_path: Path, shared: bool) -> None:
    def work(rank: int) -> Any:
        log = SkipLog("skip", 1.0, total=10, journal=tmp_path / ("all.jsonl" if shared else f"{rank}.jsonl"))
        for name in ("both", *("ab" if rank else "c")):
            log.handle(ValueError(f"{name} is broken"), sample=name, place=f"f:{name}")
        agreed = [one.sample for one in log.agree().skipped]
        again = [one.sample for one in log.agree().skipped]
        assert agreed == again
        return agreed, [one.sample for one in log.report().skipped]

    one, two = in_two_processes(tmp_path, work)
    assert one == two
    agreed, reported = one["answer"]
    assert sorted(agreed) == ["a", "b", "both", "c"]
    assert agreed == reported
    journals = ["all.jsonl"] if shared else ["0.jsonl", "1.jsonl"]
    for journal in journals:
        lines = [json.loads(line)["sample"] for line in (tmp_path / journal).read_text().splitlines()]
        assert set(lines) == {"a", "b", "both", "c"}


def test_the_ceiling_counts_all_processes_and_stops_all_of_them(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        log = SkipLog("skip", 0.3, total=10, journal=tmp_path / f"{rank}.jsonl")
        for number in range(2):  # neither of them is above it alone
            log.handle(ValueError("broken"), sample=f"{rank}-{number}", place="f:1")
        log.agree()

    for answer in in_two_processes(tmp_path, work):
        assert answer["error"] == "ValueError", answer
        assert "4 of 10 samples could not be used" in answer["text"]


def test_a_stream_of_unknown_length_has_no_ceiling_to_agree_on(tmp_path: Path) -> None:
    log = SkipLog("skip", 0.01, journal=tmp_path / "all.jsonl")
    for number in range(20):  # of a hundred thousand rows, say
        log.handle(ValueError("broken"), sample=f"{number}", place="f:1", rows_read=100_000)
    assert len(log.agree()) == 20


def test_a_failure_of_one_process_is_raised_by_all(tmp_path: Path) -> None:
    def work(rank: int) -> Any:
        SkipLog("raise").agree(LFVilaVideoError("a.mp4", "no such file") if rank else None)

    for answer in in_two_processes(tmp_path, work):
        assert (answer["error"], answer["text"]) == ("LFVilaVideoError", "cannot use video a.mp4: no such file")


@pytest.fixture
def processor(tiny_tokenizer: Any) -> Any:
    return make_processor(tiny_tokenizer)


@pytest.fixture
def broken_rows(tmp_path: Path) -> Any:
    corpus = tmp_path / "corpus"
    write_retrieval(corpus)
    (corpus / "videos" / "text.mp4").write_text("no video")
    (corpus / "videos" / "empty.mp4").touch()
    names = ["v_0", "text", "v_1", "v_2", "empty", "v_3", "v_4", "v_5"]
    path = write_json_lines(tmp_path / "broken.jsonl", [{"clip_id": name, "text": "A man."} for name in names])
    return load_retrieval(path, corpus / "videos")


def test_a_data_set_without_unusable_rows_is_the_same_on_every_process(
    broken_rows: Any, processor: Any, tmp_path: Path
) -> None:
    def work(rank: int) -> Any:
        torch.set_num_threads(1)
        tried: list[str] = []

        class Watched(RetrievalDataset):
            def _problem(self, index: int) -> Any:
                tried.append(self.rows[index]["id"])
                return super()._problem(index)

        dataset = Watched(broken_rows, processor, training=True, on_error="skip", max_skip_fraction=0.25)
        smaller = dataset.without_unusable(num_workers=1)
        return tried, [row["id"] for row in smaller.rows], str(smaller.skip_report())

    one, two = (answer["answer"] for answer in in_two_processes(tmp_path, work))
    assert sorted(one[0] + two[0]) == sorted(row["id"] for row in broken_rows), "each row is tried by one process"
    assert one[1] == two[1] == ["v_0", "v_1", "v_2", "v_3", "v_4", "v_5"]
    assert one[2] == two[2]
    assert "2 of 8 samples were skipped" in one[2]


def test_a_single_process_needs_no_group(broken_rows: Any, processor: Any) -> None:
    dataset = RetrievalDataset(broken_rows, processor, training=True, on_error="skip", max_skip_fraction=0.25)
    assert len(dataset.without_unusable(num_workers=2)) == 6
    with pytest.raises(LFVilaVideoError, match=r"text\.mp4"):
        RetrievalDataset(broken_rows, processor, training=True).without_unusable(num_workers=1)
    strict = RetrievalDataset(broken_rows, processor, training=True, on_error="skip", max_skip_fraction=0.1)
    with pytest.raises(ValueError, match="2 of 8 samples could not be used"):
        strict.without_unusable(num_workers=1)


def test_the_trainer_hears_of_it_at_the_end_of_every_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Loader:
        class dataset:  # noqa: N801  # stands for an object
            skips = SkipLog("skip", 0.2, total=10)

    callback, state, control = SkipAgreement(), TrainerState(), TrainerControl()
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[])
    Loader.dataset.skips.handle(ValueError("x"), sample="a", place="f:1")
    callback.on_epoch_end(arguments, state, control, train_dataloader=Loader())
    assert state.log_history[-1]["skipped_samples"] == 1
    callback.on_train_end(arguments, state, control, train_dataloader=Loader())
    assert "1 of 10 samples were skipped" in caplog.text
    for number in range(2):
        Loader.dataset.skips.note(ValueError("x"), sample=f"b{number}", place="f:2")
    with pytest.raises(ValueError, match="3 of 10 samples could not be used"):
        callback.on_epoch_end(arguments, state, control, train_dataloader=Loader())
    callback.on_epoch_end(arguments, state, control, train_dataloader=object())
