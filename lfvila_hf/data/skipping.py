# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Policy for samples that cannot be used: `raise`, or `skip` with a count, a log, a report and a ceiling.

Check a corpus first (`lfvila-hf check-videos`) and remove the files that cannot be used. Skipping is for the few that
are left: a skipped sample is dropped and counted, never replaced by another one.

One object, `SkipLog`, serves annotation rows and videos. Loader workers are other processes, so skips go to a journal
file, one JSON line each, appended in one write. All workers of a process share it and see each other's skips.
Processes of a distributed run count for themselves, unless they are given the same journal. A sample that is skipped in
every epoch counts once. Memory grows with the number of different skipped samples.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]

MIN_ROWS_FOR_CEILING = 1000
"""The length of a stream is unknown: its ceiling refers to the rows read so far, but to at least this many."""


@dataclass(frozen=True)
class SkippedSample:
    """A sample that was left out.

    Attributes:
        sample: Its id, as far as it could be read.
        place: Annotation file and line, `train.jsonl:12`.
        reason: Message of the error.
    """

    sample: str
    place: str
    reason: str


@dataclass(frozen=True)
class SkipReport:
    """All samples that were left out so far, by every process that shares the journal.

    Attributes:
        skipped: Each sample once, in the order in which they were first skipped.
        total: Number of all samples, skipped ones included; `None` for a stream.
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
    """Policy of one data set, with its counter and its ceiling.

    Args:
        on_error: `"raise"` raises the error; `"skip"` writes it down and logs a warning.
        max_skip_fraction: Largest fraction of all samples that may be skipped; one more is an error.
        total: Number of all samples; `None` for a stream, whose ceiling refers to the rows that a process has read, but
            to at least `MIN_ROWS_FOR_CEILING`.
        journal: File to append to. It is kept, and an existing one is continued, so that a resumed run goes on
            counting. Defaults to a temporary file, removed with this object.

    Raises:
        ValueError: The policy is unknown, or the fraction is not in 0 to 1.
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
        self._read_to = self._lines_read = 0

    def handle(self, error: Exception, *, sample: str, place: str, rows_read: int = 0) -> None:
        """Raise the error, or skip the sample and raise only above the ceiling.

        Args:
            error: Reason why the sample cannot be used.
            sample: Its id.
            place: Annotation file and line.
            rows_read: Number of rows read so far, for a stream.

        Raises:
            ValueError: Too many samples are skipped; names how many, the ceiling and the last reason.
            Exception: `error`, if the policy is to raise.
        """
        if self.on_error == "raise" or self.journal is None:
            raise error
        self._read_journal()
        if (sample, place) not in self._skipped:
            skip = SkippedSample(sample, place, str(error))
            logger.warning("skipped %s of %s: %s", sample, place, skip.reason)
            append_line(self.journal, json.dumps(asdict(skip)))
            self._read_journal()
        count = len(self._skipped)
        total = self.total if self.total is not None else max(rows_read, MIN_ROWS_FOR_CEILING)
        if count > self.max_skip_fraction * total:
            last = self._skipped[sample, place]
            raise ValueError(
                f"{count} of {total} samples could not be used, more than max_skip_fraction={self.max_skip_fraction:g} "
                f"allows; the last was {last.sample} of {last.place}: {last.reason}"
            )

    def report(self) -> SkipReport:
        """Return what was skipped so far, each sample once."""
        self._read_journal()
        return SkipReport(tuple(self._skipped.values()), self.total)

    def _read_journal(self) -> None:
        """Take in the lines that this or other processes have written since the last time."""
        if self.journal is None or not self.journal.exists():
            return
        with self.journal.open("rb") as file:
            file.seek(self._read_to)
            new, newline, _ = file.read().rpartition(b"\n")
        self._read_to += len(new) + len(newline)
        lines = new.splitlines()
        for row in journal_rows(self.journal, lines, self._lines_read + 1):
            one = SkippedSample(*(str(row.get(field)) for field in ("sample", "place", "reason")))
            self._skipped.setdefault((one.sample, one.place), one)
        self._lines_read += len(lines)


def journal_rows(journal: Path, lines: Sequence[bytes], first: int = 1) -> Iterator[Any]:
    """Decode the lines of a journal; a damaged one is passed over with a warning that names it.

    A process that is killed while it writes leaves such a line, and meets its sample again when it resumes.

    Args:
        journal: The file, for the warning.
        lines: JSON objects or arrays.
        first: Number of the first line in the file.
    """
    for number, line in enumerate(lines, first):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict | list):
            yield row
        else:
            logger.warning("%s, line %d is damaged: passed over", journal, number)


def append_line(journal: Path, line: str) -> None:
    """Add a line in one write, so that lines of several processes do not mix, and a line that was cut stays alone."""
    descriptor = os.open(journal, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" * is_cut + f"{line}\n".encode())
    finally:
        os.close(descriptor)


def _remove(name: str, owner: int) -> None:
    """Remove the journal in the process that made it, not in a forked worker that exits."""
    if os.getpid() == owner:
        Path(name).unlink(missing_ok=True)


__all__ = ["SkipLog", "SkipReport", "SkippedSample"]
