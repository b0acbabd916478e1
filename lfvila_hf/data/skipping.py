# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""What happens to a sample that cannot be used: `raise`, or `skip` with a count, a log, a report and a ceiling.

One policy object, `SkipLog`, serves annotation rows and videos alike. Skipped samples are written to a journal file,
one JSON line each, because loader workers are other processes: a line is appended in one piece, so that the processes
need no lock, and every one of them sees all skips when it compares their number with the ceiling. The processes of a
distributed run count together from `SkipLog.agree` on, which tells each of them what the others skipped, or all the
time if they are given the same journal file. A sample that is skipped in every epoch counts once. Memory is bounded by
the number of distinct skipped samples.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import weakref
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..video_sources_lfvila import LFVilaVideoError

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]

MIN_ROWS_FOR_CEILING = 1000
"""A stream does not know its length: its ceiling is taken of the rows read so far, but of no fewer than this."""


@dataclass(frozen=True)
class SkippedSample:
    """One sample that was left out.

    Attributes:
        sample: Its id, as far as it could be read.
        place: Annotation file and line, `train.jsonl:12`.
        reason: Why.
    """

    sample: str
    place: str
    reason: str


@dataclass(frozen=True)
class SkipReport:
    """All that was left out so far, by every process that shares the journal.

    Attributes:
        skipped: Each sample once, in the order of being skipped first.
        total: Samples in all, skipped ones included; `None` for a stream.
    """

    skipped: tuple[SkippedSample, ...]
    total: int | None

    def __len__(self) -> int:
        return len(self.skipped)

    def __str__(self) -> str:
        if not self.skipped:
            return "no sample was skipped"
        lines = [f"{len(self.skipped)} of {self.total if self.total is not None else 'the'} samples were skipped:"]
        lines += [f"  {one.place} ({one.sample}): {one.reason}" for one in self.skipped]
        return "\n".join(lines)


class SkipLog:
    """The policy of one data set, its counters and its ceiling.

    Args:
        on_error: `"raise"`: the error goes to the caller. `"skip"`: it is written down and logged as a warning.
        max_skip_fraction: Ceiling for `"skip"`, a part of all samples; one more skip is an error.
        total: Samples in all; `None` for a stream, whose ceiling is taken of the rows read so far by one process, but
            of no fewer than `MIN_ROWS_FOR_CEILING`.
        journal: File to append to, kept afterwards; a temporary one that goes with this object where left out. A file
            that is there is read on, so that a resumed run goes on counting.

    Raises:
        ValueError: For an unknown policy or a fraction outside 0 to 1.
    """

    def __init__(
        self,
        on_error: OnError = "raise",
        max_skip_fraction: float = 0.01,
        total: int | None = None,
        journal: str | os.PathLike[str] | None = None,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
        if not 0 <= max_skip_fraction <= 1:
            raise ValueError(f"max_skip_fraction must lie in 0 to 1, got {max_skip_fraction}")
        self.on_error = on_error
        self.max_skip_fraction = max_skip_fraction
        self.total = total
        self.journal: Path | None = None if journal is None else Path(journal)
        if self.journal is not None:
            self.journal.parent.mkdir(parents=True, exist_ok=True)
        elif on_error == "skip":
            handle, name = tempfile.mkstemp(prefix="lfvila_hf_skipped_", suffix=".jsonl")
            os.close(handle)
            self.journal = Path(name)
            # Only here, not where a worker unpickles its copy: the file goes with the object that made it.
            weakref.finalize(self, _remove, name, os.getpid())
        self._skipped: dict[tuple[str, str], SkippedSample] = {}
        self._read_to = 0

    def handle(self, error: Exception, *, sample: str, place: str, rows_read: int = 0) -> None:
        """Raise the error, or write it down and raise only where the ceiling is passed.

        Args:
            error: What made the sample unusable.
            sample: Its id.
            place: Annotation file and line.
            rows_read: Rows read so far, for a stream.

        Raises:
            ValueError: Too many samples are skipped; names how many, the ceiling and the last reason.
            Exception: `error`, where the policy is to raise.
        """
        self.note(error, sample=sample, place=place)
        self._check_ceiling(rows_read, self._skipped[sample, place])

    def note(self, error: Exception, *, sample: str, place: str) -> None:
        """Raise the error, or write it down, whatever the ceiling; `agree` looks at that.

        Args:
            error: What made the sample unusable.
            sample: Its id.
            place: Annotation file and line.

        Raises:
            Exception: `error`, where the policy is to raise.
        """
        if self.on_error == "raise" or self.journal is None:
            raise error
        self._read_journal()
        if (sample, place) not in self._skipped:
            skip = SkippedSample(sample, place, str(error))
            logger.warning("skipped %s of %s: %s", sample, place, skip.reason)
            _append(self.journal, json.dumps(asdict(skip)))
            self._read_journal()

    def agree(self, failure: Exception | None = None) -> SkipReport:
        """Make the processes of a distributed run know the same skips, in the same order; all of them must call it.

        Args:
            failure: An error that this process would raise; every process then raises one with its text.

        Returns:
            The report, the same on every process.

        Raises:
            ValueError: On every process: `failure` of the first one that has any (an `LFVilaVideoError` where it is
                one), or too many samples are skipped. A stream's ceiling is a matter of the rows that each process has
                read, and is looked at while it reads.
        """
        self._read_journal()
        known = [asdict(one) for one in self._skipped.values()]
        words = None if failure is None else (str(failure), isinstance(failure, LFVilaVideoError))
        everything = _gathered((known, words))
        for _, other in everything:
            if other is not None:
                if failure is not None and other == words:
                    raise failure
                raise LFVilaVideoError(other[0]) if other[1] else ValueError(other[0])
        self._read_journal()
        merged: dict[tuple[str, str], SkippedSample] = {}
        for skips, _ in everything:
            for fields in skips:
                one = SkippedSample(**fields)
                if (one.sample, one.place) not in self._skipped and self.journal is not None:
                    _append(self.journal, json.dumps(fields))
                merged.setdefault((one.sample, one.place), one)
        self._skipped = merged
        self._read_journal()
        if merged and self.on_error == "skip" and self.total is not None:
            self._check_ceiling(0, list(merged.values())[-1])
        return SkipReport(tuple(merged.values()), self.total)

    def report(self) -> SkipReport:
        """What was skipped so far, each sample once."""
        self._read_journal()
        return SkipReport(tuple(self._skipped.values()), self.total)

    def reasons(self) -> Counter[str]:
        """How often each reason occurs."""
        return Counter(one.reason for one in self.report().skipped)

    def _read_journal(self) -> None:
        """Take in the lines that this or other processes have written since the last time."""
        if self.journal is None or not self.journal.exists():
            return
        with self.journal.open("rb") as file:
            file.seek(self._read_to)
            new, newline, _ = file.read().rpartition(b"\n")
        self._read_to += len(new) + len(newline)
        for line in new.splitlines():
            one = SkippedSample(**json.loads(line))
            self._skipped.setdefault((one.sample, one.place), one)

    def _check_ceiling(self, rows_read: int, last: SkippedSample) -> None:
        count = len(self._skipped)
        total = self.total if self.total is not None else max(rows_read, MIN_ROWS_FOR_CEILING)
        if count > self.max_skip_fraction * total:
            raise ValueError(
                f"{count} of {total} samples could not be used, more than max_skip_fraction={self.max_skip_fraction:g} "
                f"allows; the last was {last.sample} of {last.place}: {last.reason}"
            )


def _gathered(value: Any) -> list[Any]:
    """What every process of a distributed run has, by rank; only this one's outside such a run."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    everything: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everything, value)
    return everything


def _append(journal: Path, line: str) -> None:
    """Add a line in one write, so that lines of several processes do not mix."""
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def _remove(name: str, owner: int) -> None:
    """Remove the journal in the process that made it, not in a forked worker that exits."""
    if os.getpid() == owner:
        Path(name).unlink(missing_ok=True)
