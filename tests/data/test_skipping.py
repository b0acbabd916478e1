"""The policy for samples that cannot be used: raise, or skip with a journal, a report and a ceiling.

Its use is tested where it is used: rows in `test_annotations`, videos and workers in `test_datasets`.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
from pathlib import Path

import pytest

from lfvila_hf.data import skipping
from lfvila_hf.data.skipping import SkipLog


def test_raise_hands_on_the_error_itself() -> None:
    log, error = SkipLog("raise"), KeyError("x")
    with pytest.raises(KeyError) as caught:
        log.handle(error, sample="a", place="f:1")
    assert caught.value is error
    assert len(log.report()) == 0
    assert str(log.report()) == "no sample was skipped"


def test_skip_counts_a_sample_once_and_logs_it_once(caplog: pytest.LogCaptureFixture) -> None:
    log = SkipLog("skip", max_skip_fraction=1.0, total=10)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            log.handle(ValueError("broken"), sample="a", place="f:1")
        log.handle(ValueError("broken"), sample="a", place="f:2")
    report = log.report()
    assert [one.place for one in report.skipped] == ["f:1", "f:2"]
    assert "2 of 10 samples were skipped" in str(report)
    assert "f:1 (a): broken" in str(report)
    assert len(caplog.records) == 2


def test_the_ceiling_is_the_last_number_that_is_allowed() -> None:
    log = SkipLog("skip", max_skip_fraction=0.2, total=10)
    log.handle(ValueError("one"), sample="a", place="f:1")
    log.handle(ValueError("two"), sample="b", place="f:2")
    with pytest.raises(ValueError, match=r"3 of 10 .*max_skip_fraction=0\.2.*c of f:3: three"):
        log.handle(ValueError("three"), sample="c", place="f:3")


def test_a_stream_takes_its_ceiling_of_the_rows_read_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skipping, "MIN_ROWS_FOR_CEILING", 20)
    log = SkipLog("skip", max_skip_fraction=0.1)
    for number in range(2):
        log.handle(ValueError("x"), sample=str(number), place=f"f:{number}", rows_read=number + 1)
    with pytest.raises(ValueError, match="3 of 20 samples"):
        log.handle(ValueError("x"), sample="2", place="f:2", rows_read=3)
    log.handle(ValueError("x"), sample="3", place="f:3", rows_read=100)


def test_copies_in_other_processes_share_the_journal() -> None:
    log = SkipLog("skip", max_skip_fraction=0.2, total=10)
    copy = pickle.loads(pickle.dumps(log))
    log.handle(ValueError("x"), sample="a", place="f:1")
    copy.handle(ValueError("y"), sample="b", place="f:2")
    assert [one.sample for one in log.report().skipped] == ["a", "b"] == [one.sample for one in copy.report().skipped]
    with pytest.raises(ValueError, match="3 of 10"):
        copy.handle(ValueError("z"), sample="c", place="f:3")


def test_a_temporary_journal_goes_with_the_object_that_made_it_and_not_with_a_copy() -> None:
    log = SkipLog("skip")
    copy = pickle.loads(pickle.dumps(log))
    path = log.journal
    del copy
    gc.collect()
    assert path.exists()
    del log
    gc.collect()
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_does_not_remove_the_journal_when_it_ends() -> None:
    log = SkipLog("skip")
    child = os.fork()
    if child == 0:
        log.__dict__["marker"] = True
        del log
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert log.journal.exists()


def test_a_kept_journal_is_read_on_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "skipped.jsonl"
    first = SkipLog("skip", 1.0, total=5, journal=path)
    first.handle(ValueError("x"), sample="a", place="f:1")
    del first
    gc.collect()
    assert [one.sample for one in SkipLog("skip", 1.0, total=5, journal=path).report().skipped] == ["a"]


def test_a_line_that_is_still_being_written_is_read_later(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    one, other = (SkipLog("skip", 1.0, total=5, journal=path) for _ in range(2))
    one.handle(ValueError("x"), sample="a", place="f:1")
    line = path.read_bytes()
    path.write_bytes(line + line.replace(b"f:1", b"f:2")[:-10])
    assert [skip.place for skip in other.report().skipped] == ["f:1"]
    path.write_bytes(line + line.replace(b"f:1", b"f:2"))
    assert [skip.place for skip in other.report().skipped] == ["f:1", "f:2"]


def test_a_line_that_a_killed_process_left_is_passed_over_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "skipped.jsonl"
    SkipLog("skip", 1.0, total=5, journal=path).handle(ValueError("x"), sample="a", place="f:1")
    path.write_bytes(path.read_bytes() + b'{"sample": "b", "pl')
    SkipLog("skip", 1.0, total=5, journal=path).handle(ValueError("x"), sample="c", place="f:3")
    assert [skip.place for skip in SkipLog("skip", 1.0, total=5, journal=path).report().skipped] == ["f:1", "f:3"]
    assert f"{path}, line 2 is damaged: passed over" in caplog.text


def test_many_skips_are_read_once_each(tmp_path: Path) -> None:
    log = SkipLog("skip", 1.0, total=3000, journal=tmp_path / "skipped.jsonl")
    other = SkipLog("skip", 1.0, total=3000, journal=tmp_path / "skipped.jsonl")
    for number in range(1000):
        log.handle(ValueError("x"), sample=f"a{number}", place=f"f:{number}")
        other.handle(ValueError("x"), sample=f"b{number}", place=f"f:{number}")
        log.handle(ValueError("x"), sample="a0", place="f:0")
    assert len(log.report()) == len(other.report()) == 2000
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 2000


def test_an_unknown_policy_and_an_impossible_ceiling_are_errors() -> None:
    with pytest.raises(ValueError, match='"raise" or "skip", got \'ignore\''):
        SkipLog("ignore")  # type: ignore[arg-type]  # a wrong value is the point
    with pytest.raises(ValueError, match=r"0 to 1, got 1\.5"):
        SkipLog("skip", 1.5)
