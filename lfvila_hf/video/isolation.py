# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""Decoding in a child process, on request: `read_frames(..., isolated=True)`.

A hostile file can crash or hang a decoder there without harm to the caller. The child is a plain interpreter that loads
the reading files of the package (torch, NumPy and PyAV, nothing of transformers) and stays for the next video. It is
started when first needed, and ended after a crash, a time-out or a broken answer. The operating system limits its
memory. It sends back JSON and raw pixels, never pickled objects, and both are checked before use. It gets none of the
caller's environment but `ENVIRONMENT`, so no tokens. It has the user's rights to files and network all the same: a
video that takes a decoder over is kept from the caller's memory, not from the machine.

It needs a POSIX system. It is a subprocess and no `multiprocessing` child, so loader workers may have one too.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from ..video_reading_lfvila import (
    FrameSelection,
    ReadOptions,
    VideoFrames,
    VideoInfo,
    check_output,
    read_selected,
    stack_pictures,
)
from ..video_sources_lfvila import STOP, LFVilaVideoError, VideoLimits, VideoSource, describe_source

# Seconds that a child gets beyond the limit of one video, to say itself that the limit is over.
GRACE = 5.0
# Seconds between two looks at whether somebody still waits.
LOOK_UP = 0.2
# Seconds that a new child may take to load torch.
START = 120.0
# Run in the child: build a bare package around the flat files and answer requests until the connection ends.
BOOT = """
import importlib, sys, types
folder, number, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
package = types.ModuleType("lfvila_reading")
package.__path__ = [folder]
sys.modules["lfvila_reading"] = package
importlib.import_module("lfvila_reading.video.isolation").serve(number, memory)
"""
# Variables that a child is given: where to find libraries and temporary files, language, threads.
ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL", "TZ", "OMP_NUM_THREADS")
# The messages of a child and the types of their fields.
ANSWERS: dict[str, dict[str, Any]] = {
    "ready": {},
    "picture": {"shape": list},
    "result": {"order": list, "times": list, "indices": list, "metadata": dict, "decoded_frames": int},
    "video_error": {"reason": str, "position": (str, type(None))},
    "error": {"type": str, "message": str},
}
CALLER_ERRORS: dict[str, type[Exception]] = {
    "ValueError": ValueError,
    "TypeError": TypeError,
    "ImportError": ImportError,
}


class DecoderProcess:
    """One child that decodes videos one after the other.

    Args:
        max_memory_bytes: What it may add to its address space once it is loaded; `None` for no limit.

    Raises:
        OSError: where it cannot be started.
    """

    def __init__(self, max_memory_bytes: int | None) -> None:
        if os.name != "posix":
            raise OSError("decoding in a process of its own needs a POSIX system")
        self.max_memory_bytes = max_memory_bytes
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
            environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    BOOT,
                    os.path.dirname(os.path.dirname(__file__)),
                    str(theirs.fileno()),
                    str(max_memory_bytes or 0),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        self._connection = Connection(ours.detach())
        try:
            self._answer(time.monotonic() + START)
        except (EOFError, ConnectionError, TimeoutError, _BrokenAnswer) as error:
            words = self._last_words()
            self.close()
            raise OSError(f"the decoder process could not be started ({words})") from error

    @property
    def pid(self) -> int:
        """The child's process number."""
        return self._process.pid

    def run(
        self,
        name: str,
        request: dict[str, Any],
        seconds: float | None,
        max_picture_bytes: int,
    ) -> Generator[torch.Tensor | dict[str, Any], None, None]:
        """Send one request and receive its pictures and its result.

        Args:
            name: The video, for errors.
            request: The message that `serve` answers.
            seconds: Until the child is given up; `None` to wait for ever.
            max_picture_bytes: The largest picture that is accepted.

        Yields:
            Pictures `(3, H, W)` uint8 in the order of arrival, then the result.

        Raises:
            LFVilaVideoError: What the child says of the video, or that it crashed, hung or answered nonsense; after
                one of the latter three it is gone.
        """
        end = None if seconds is None else time.monotonic() + seconds
        in_step = False  # whether the child is waiting for the next request
        try:
            self._connection.send_bytes(pickle.dumps(request))
            while True:
                kind, answer = self._answer(end)
                if kind == "ready":
                    raise _BrokenAnswer("it said that it is ready a second time")
                if kind == "picture":
                    yield self._picture(end, answer["shape"], max_picture_bytes)
                    continue
                in_step = True
                if kind == "result":
                    yield answer
                    return
                if kind == "video_error":
                    raise LFVilaVideoError(name, answer["reason"], answer["position"])
                raise CALLER_ERRORS[answer["type"]](answer["message"])
        except (EOFError, ConnectionError) as error:
            raise LFVilaVideoError(name, f"the decoder process died ({self._last_words()})") from error
        except _BrokenAnswer as error:
            raise LFVilaVideoError(name, f"the decoder process gave no proper answer: {error}") from error
        except _Stopped as error:
            raise LFVilaVideoError(name, "reading was stopped") from error
        except TimeoutError as error:
            raise LFVilaVideoError(
                name, f"the decoder process did not answer for {seconds:g} s and was ended"
            ) from error
        finally:
            if not in_step:
                self.close()

    def close(self) -> None:
        """End the child."""
        self._connection.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    @property
    def alive(self) -> bool:
        """Whether it can take another request."""
        return not self._connection.closed and self._process.poll() is None

    def _receive(self, end: float | None, most: int) -> bytes:
        """One message of the child, of at most `most` bytes."""
        stop = STOP.get()
        while not self._connection.poll(_seconds_to_wait(end, stop is not None)):
            if stop is not None and stop.is_set():
                raise _Stopped
            if end is not None and time.monotonic() >= end:
                raise TimeoutError
        try:
            return self._connection.recv_bytes(most)
        except OSError as error:
            if isinstance(error, (EOFError, ConnectionError)):
                raise
            raise _BrokenAnswer(f"a message of more than {most} bytes") from error

    def _answer(self, end: float | None) -> tuple[str, dict[str, Any]]:
        """One JSON message of a known kind with the fields of that kind."""
        try:
            answer = json.loads(self._receive(end, 2**28))
            kind = answer["kind"]
            for field, types in ANSWERS[kind].items():
                if not isinstance(answer[field], types):
                    raise _BrokenAnswer(f"{field} of {kind} is {answer[field]!r:.80}")
            if kind == "error" and answer["type"] not in CALLER_ERRORS:
                raise _BrokenAnswer(f"an error of the type {answer['type']!r:.80}")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _BrokenAnswer(f"{error!r:.80}") from error
        return kind, answer

    def _picture(self, end: float | None, shape: Any, most: int) -> torch.Tensor:
        """The pixels that follow the announcement of a picture."""
        if len(shape) != 3 or shape[0] != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
            raise _BrokenAnswer(f"a picture of the shape {shape!r:.80}")
        size = shape[0] * shape[1] * shape[2]
        if size > most:
            raise _BrokenAnswer(f"a picture of {size} bytes")
        data = self._receive(end, most)
        if len(data) != size:
            raise _BrokenAnswer(f"{len(data)} bytes for a picture of the shape {shape}")
        return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).reshape(shape).copy())  # (3, H, W)

    def _last_words(self) -> str:
        """Describe the end of the child."""
        try:
            code = self._process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        if code >= 0:
            return f"exit status {code}"
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"


class _BrokenAnswer(Exception):
    """The child sent something that it never sends of its own."""


class _Stopped(TimeoutError):
    """Nobody waits for the answer any more."""


def _seconds_to_wait(end: float | None, may_be_stopped: bool) -> float | None:
    """Seconds to wait for a message before the clock, or the request to stop, is checked again."""
    left = None if end is None else max(end - time.monotonic(), 0)
    if may_be_stopped:
        left = LOOK_UP if left is None else min(left, LOOK_UP)
    return left


class _Pool:
    """Idle children of this process, by memory limit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._idle: list[DecoderProcess] = []

    def take(self, max_memory_bytes: int | None) -> DecoderProcess:
        """An idle child with this limit, or a new one."""
        with self._lock:
            if self._owner != os.getpid():  # after a fork: those children answer to the parent
                self._owner, self._idle = os.getpid(), []
            for child in self._idle:
                if child.max_memory_bytes == max_memory_bytes and child.alive:
                    self._idle.remove(child)
                    return child
        return DecoderProcess(max_memory_bytes)

    def give_back(self, child: DecoderProcess) -> None:
        """Keep a child for the next video, if it still lives."""
        with self._lock:
            if child.alive and self._owner == os.getpid():
                self._idle.append(child)

    def clear(self) -> None:
        """End all idle children."""
        with self._lock:
            children, self._idle = self._idle, []
        for child in children:
            child.close()


_POOL = _Pool()


def close_decoder_processes() -> None:
    """End the idle decoder processes of this process; new ones are started when needed."""
    _POOL.clear()


def read_isolated(
    source: Any,
    selection: FrameSelection,
    options: ReadOptions,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> VideoFrames:
    """Read the selected frames in a child of the pool, and apply the transform here.

    Args:
        source: See `read_frames`; no array.
        selection: The frames.
        options: The limits are enforced inside the child; those on memory, time and picture size from outside as well.
        transform: Called with each kept `(3, H, W)` uint8 picture.

    Raises:
        LFVilaVideoError: If the video cannot be used, or its decoder crashed, hung or ran out of memory.
        ValueError: For a frame that the video does not have.
    """
    name, limits = describe_source(source), options.limits
    with closing(VideoSource(source, limits)) as opened:
        portable = opened.portable()
    request = {"source": portable, "selection": vars(selection), "options": {**vars(options), "limits": vars(limits)}}
    seconds = None if limits.max_seconds is None else limits.max_seconds + GRACE
    pictures: list[torch.Tensor] = []
    answer: dict[str, Any] = {}
    child = _POOL.take(limits.max_memory_bytes)
    try:
        with closing(child.run(name, request, seconds, 3 * (limits.max_pixels or 2**29))) as received:
            for item in received:
                if isinstance(item, dict):
                    answer = item
                else:
                    pictures.append(item if transform is None else transform(item))
                    check_output(name, pictures[-1].nbytes, len(pictures), limits)
    finally:
        _POOL.give_back(child)
    try:
        frames = [pictures[number] for number in answer["order"]]
        known = {**answer["metadata"], "source": name, "notes": tuple(map(str, answer["metadata"]["notes"]))}
        info = VideoInfo(**known)
        times, indices = [float(second) for second in answer["times"]], [int(index) for index in answer["indices"]]
        if not len(frames) == len(times) == len(indices) or not frames:
            raise ValueError("its parts differ in length")
        for value, most in ((info.duration, limits.max_duration), (info.total_num_frames, limits.max_frames)):
            if value is not None and not 0 <= value <= (most or math.inf):
                raise ValueError(f"{value!r:.20} frames or seconds")
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise LFVilaVideoError(name, f"the decoder process gave no proper answer: {error!r:.80}") from error
    check_output(name, frames[0].nbytes, len(frames), limits)
    return VideoFrames(stack_pictures(name, frames, indices), times, indices, info, answer["decoded_frames"])


def _answer(request: dict[str, Any], send_picture: Callable[[torch.Tensor], None]) -> dict[str, Any]:
    """Read frames in the child.

    Returns:
        Fields that JSON can carry: `order` (which sent picture is which frame), `times`, `indices`, `metadata` and
        `decoded_frames`.
    """
    fields = request["options"]
    options = ReadOptions(**{**fields, "limits": VideoLimits(**fields["limits"])})
    sent = 0

    def send_and_number(picture: torch.Tensor) -> torch.Tensor:
        nonlocal sent
        send_picture(picture)
        sent += 1
        return torch.tensor([sent - 1])

    read = read_selected(request["source"], FrameSelection(**request["selection"]), options, send_and_number)
    return {
        "order": read.frames[:, 0].tolist(),
        "times": read.times,
        "indices": read.indices,
        "metadata": vars(read.metadata),
        "decoded_frames": read.decoded_frames,
    }


def serve(number: int, max_memory_bytes: int) -> None:
    """Answer requests in the child, on the socket `number` until the other end is closed.

    Args:
        number: File descriptor of the socket.
        max_memory_bytes: What may be added to the address space from now on; 0 for no limit.
    """
    torch.set_num_threads(1)
    _limit_memory(max_memory_bytes)
    connection = Connection(number)

    def send(kind: str, **fields: Any) -> None:
        connection.send_bytes(json.dumps({"kind": kind, **fields}).encode())

    def send_picture(picture: torch.Tensor) -> None:
        send("picture", shape=list(picture.shape))
        connection.send_bytes(picture.numpy().tobytes())

    send("ready")
    while True:
        try:
            request = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            send("result", **_answer(request, send_picture))
        except LFVilaVideoError as error:
            send("video_error", reason=error.reason, position=error.position)
        except MemoryError:
            send("video_error", reason="decoding ran out of memory (max_memory_bytes)", position=None)
        except (ValueError, TypeError, ImportError) as error:
            kind = next(name for name, cls in CALLER_ERRORS.items() if isinstance(error, cls))
            send("error", type=kind, message=str(error))


def _limit_memory(max_memory_bytes: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if max_memory_bytes:
            with open("/proc/self/statm", encoding="ascii") as file:
                now = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + max_memory_bytes, now + max_memory_bytes))
    except (ImportError, OSError, ValueError):  # no such limits on this system
        return
