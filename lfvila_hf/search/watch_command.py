# Copyright 2026 The lfvila_hf authors. Licensed under the MIT License.
"""`lfvila-hf watch`: say when sentences begin and end in a video that is still being made."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

DTYPES = ("float32", "bfloat16", "float16")
STATUS = {"end": 0, "stalled": 3, "broken": 4, "stopped": 130}
"""Exit status by the way in which the stream ended."""
ENDINGS = {
    "end": "the stream ended",
    "stalled": "no data came for {stall:g} s",
    "broken": "the stream ended within a frame",
    "stopped": "stopped",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="lfvila-hf watch",
        description="Print a line when a sentence begins or ends in a video that is still being made.",
        epilog='Example: ffmpeg -i CAMERA -f mpegts - | lfvila-hf watch - --model NAME "a man rides a horse". '
        "Exit status: 0 the stream ended, 1 error, 3 it stalled, 4 it ended within a frame, 130 it was stopped, 141 "
        "nobody reads its lines. What came before is indexed and printed in every case.",
    )
    parser.add_argument("source", metavar="SOURCE", help="-, a file that grows, a device, or an address")
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="what to watch for, in any order")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="folder or repository on the Hub: LF-VILA, CLIP, SigLIP, X-CLIP, ...; or module:name of your own encoder",
    )
    rule = parser.add_mutually_exclusive_group()
    rule.add_argument("--threshold", type=float, metavar="COSINE", help="a sentence begins at clips of this cosine")
    rule.add_argument(
        "--calibrate",
        metavar="INDEX",
        help="take thresholds from the videos of an index, nearly none of which shows the sentences (default: from the "
        "clips of the stream so far, 30 of them before anything begins)",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.01,
        help="share of segments without the sentence that may reach its threshold (default: %(default)s)",
    )
    parser.add_argument(
        "--clip-seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="length of a clip (default: 13.4, or the encoder's)",
    )
    parser.add_argument(
        "--stall-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="end if nothing comes for so long (default: %(default)s)",
    )
    parser.add_argument("--index", metavar="DIR", help="append the stream to this index while it runs")
    parser.add_argument("--allow-network", action="store_true", help="let SOURCE be an address such as rtsp://...")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--device", help="where the model runs (default: cuda if there is one; an export: cpu)")
    parser.add_argument("--dtype", choices=DTYPES, help="precision of the model (default: the checkpoint's)")
    parser.add_argument("--trust-remote-code", action="store_true", help="let the checkpoint run its own Python code")
    return parser


def check(options: argparse.Namespace) -> None:
    """Check sources and numbers before the package is imported.

    Raises:
        ValueError: A source does not exist or is not allowed, there is nothing to do, or a number is out of range.
    """
    if re.match(r"[\w+.-]{2,}://", options.source):
        if not options.allow_network:
            raise ValueError(f"{options.source} is an address: allow it with --allow-network")
    elif options.source != "-" and not os.path.exists(options.source):
        raise ValueError(f"there is no file or device {options.source}")
    elif os.path.isdir(options.source):
        raise ValueError(f"{options.source} is a folder: name one file, or use `lfvila-hf index`")
    if not options.sentences and not options.index:
        raise ValueError("there is nothing to do: give sentences, or --index")
    if options.model.startswith((".", "/", "~")) and not os.path.isdir(options.model):
        raise ValueError(f"--model {options.model}: there is no such folder")
    if not 0 < options.alpha < 1:
        raise ValueError(f"--alpha must lie between 0 and 1, got {options.alpha}")
    if options.threshold is not None and not -1 <= options.threshold <= 1:
        raise ValueError(f"--threshold is a cosine from -1 to 1, got {options.threshold}")
    if not (math.isfinite(options.clip_seconds) and options.clip_seconds >= 0):
        raise ValueError(f"--clip-seconds must be at least 0, got {options.clip_seconds}")
    if not (math.isfinite(options.stall_seconds) and options.stall_seconds > 0):
        raise ValueError(f"--stall-seconds must be above 0, got {options.stall_seconds}")


def main(arguments: list[str]) -> int:
    """Run the command: read, embed, print begins and ends until the stream ends."""
    options = build_parser().parse_args(arguments)
    check(options)
    from transformers.utils import logging

    from lfvila_hf.search.encoders import default_device, load_encoder
    from lfvila_hf.search.formats import clock
    from lfvila_hf.search.index import only_writer
    from lfvila_hf.search.watching import SentenceWatch, StreamIndex, clips_in_segment, thresholds_of_index
    from lfvila_hf.streaming import stream_encoder
    from lfvila_hf.video.live import LiveVideo
    from lfvila_hf.video_reading_lfvila import LFVilaVideoError

    logging.set_verbosity_error()  # heads of pre-training are left out on purpose
    logging.disable_progress_bar()
    device = options.device or default_device(options.model)
    encoder = load_encoder(options.model, options.trust_remote_code, device=device, dtype=options.dtype)
    stream, step = stream_encoder(encoder, options.clip_seconds)
    thresholds = None
    if options.threshold is not None:
        thresholds = [options.threshold] * len(options.sentences)
    elif options.calibrate:
        thresholds = thresholds_of_index(options.calibrate, encoder, options.sentences, options.alpha)
    segment = clips_in_segment(encoder, stream, step)
    watching = SentenceWatch(encoder, options.sentences, segment, thresholds, options.alpha)
    for sentence in options.sentences:
        for note in encoder.notes([sentence]):
            tell(f"{sentence!r}: {note}")
    with stop_on_signals() as stop, only_writer(options.index) if options.index else nullcontext():
        live = LiveVideo(options.source, options.stall_seconds, options.allow_network, stop)
        index = StreamIndex(options.index, encoder, stream, step, name_of(options.source)) if options.index else None
        errors: list[Exception] = []  # the first is raised below: what came before is finished first
        clips: list[Any] = []
        with kept(errors):
            for second, picture in live.sampled(step):
                found = stream.push(picture[None], [second])
                try:
                    if index is not None:
                        index.add(picture, second, found)
                finally:
                    say((event for clip in found for event in watching.see(clip)), options.json)
        with kept(errors):
            clips = stream.finish().clips if stream.num_frames else []
        with kept(errors):
            if index is not None and stream.num_frames:
                index.finish(clips)
        with kept(errors):
            say((event for clip in clips for event in watching.see(clip)), options.json)
            say(watching.finish(), options.json)
    error = errors[0] if errors else None
    for note in live.notes:
        tell(note)
    ending = live.ending or "end"
    is_end = isinstance(error, LFVilaVideoError) and ending in ("stalled", "stopped")
    if error is not None and not is_end:
        raise error
    seconds = max(stream.last_second + step, 0.0)
    if options.json:
        counts = {"seconds": seconds, "frames": stream.num_frames, "clips": stream.num_clips}
        print(json.dumps({"event": "finish", "reason": ending, **counts, "notes": live.notes}), flush=True)
    tell(f"{ENDINGS[ending].format(stall=options.stall_seconds)} after {clock(seconds, 1)} ({stream.num_clips} clips)")
    return STATUS[ending]


@contextmanager
def kept(errors: list[Exception]) -> Iterator[None]:
    """Append an error to a list instead of raising it."""
    try:
        yield
    except Exception as error:
        errors.append(error)


def say(events: Iterable[Any], as_json: bool) -> None:
    """Print events, one a line, at once."""
    from lfvila_hf.search.formats import clock

    for event in events:
        if as_json:
            print(json.dumps(asdict(event)), flush=True)
        elif event.event == "begin":
            numbers = f"cosine {event.cosine:.3f}, threshold {event.threshold:.3f}"
            print(f"{clock(event.second, 1)}  begins  {event.text}  ({numbers})", flush=True)
        else:
            more = ", still on when the stream ended" if event.is_cut else ""
            numbers = f"since {clock(event.start, 1)}, best cosine {event.cosine:.3f}{more}"
            print(f"{clock(event.second, 1)}  ends    {event.text}  ({numbers})", flush=True)


def tell(text: str) -> None:
    """Print a line about the stream itself, to standard error."""
    print(f"lfvila-hf watch: {text}", file=sys.stderr, flush=True)


def name_of(source: str) -> str:
    """Return the name of a stream in an index: the path of a file, else the source and the time of day."""
    if os.path.isfile(source):
        return os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(source))), os.path.basename(source))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return f"{'standard input' if source == '-' else source} {now}"


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Let the first Ctrl-C or SIGTERM set an event instead of raising; the second one raises."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def set_stop(number: int, frame: Any) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, set_stop)
    try:
        yield stop
    finally:
        restore()
