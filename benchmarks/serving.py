"""`lfvila-hf serve` under load: clients that ask one after the other, most for a text, some for a clip.

    python benchmarks/serving.py outputs/demo/checkpoint --videos outputs/demo/shapetales/videos
    python benchmarks/serving.py exported --clients 32 --requests 1000 --clip-share 0.05

The server is a process of its own, the clients are threads of this one, and both share the processor. `median_ms` and
`p99_ms` are wall time from sending to the whole answer. Memory is the server's resident memory after a fifth of the
requests and at the end. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from measuring import finish, print_table, record

SENTENCES = ("A red star falls.", "A blue ring grows in the dark.", "Two white hoops come together.", "A man rides.")


def start_server(model: str, options: list[str]) -> tuple[subprocess.Popen[str], int]:
    """Start the server; returns its process and port once it answers."""
    command = [sys.executable, "-m", "lfvila_hf.cli", "serve", model, "--port", "0", "--name", "model", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.match(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
    if found is None:
        raise SystemExit("the server did not start")
    return process, int(found[1])


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def metric(port: int, name: str) -> float:
    """A number of `/metrics`."""
    found = re.search(rf"^{re.escape(name)} ([\d.e+-]+)$", ask(port, "GET", "/metrics")[1].decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def run_load(port: int, options: argparse.Namespace, videos: list[bytes]) -> dict[str, Any]:
    """Send all requests; returns statuses, seconds by kind, and the server's memory."""
    seconds: dict[str, list[float]] = {"text": [], "clip": []}
    statuses: Counter[str] = Counter()
    memory: list[float] = []
    lock = threading.Lock()
    numbers = iter(range(options.requests))

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            if number == options.requests // 5:
                memory.append(metric(port, "process_resident_memory_bytes") / 2**20)
            clip = bool(videos) and number % round(1 / options.clip_share) == 0
            if clip:
                value: Any = {"video": base64.b64encode(videos[number % len(videos)]).decode()}
            else:
                value = f"{number}. {' '.join(SENTENCES[: 1 + number % len(SENTENCES)])}"
            body = json.dumps({"input": value}).encode()
            start = time.perf_counter()
            try:
                status = str(ask(port, "POST", "/v1/embeddings", body)[0])
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
            with lock:
                seconds["clip" if clip else "text"].append(time.perf_counter() - start)
                statuses[status] += 1

    start = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = time.perf_counter() - start
    memory.append(metric(port, "process_resident_memory_bytes") / 2**20)
    batches = {kind: metric(port, f'lfvila_batch_size_count{{kind="{kind}"}}') for kind in seconds}
    return {"statuses": statuses, "seconds": seconds, "memory_mib": memory, "total": total, "batches": batches}


def quantile(values: list[float], part: float) -> float:
    """The value below which a part of the values lies."""
    return sorted(values)[min(int(part * len(values)), len(values) - 1)]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="what `lfvila-hf serve` takes")
    parser.add_argument("--clients", type=int, default=32, help="threads that ask one after the other")
    parser.add_argument("--requests", type=int, default=1000, help="requests of all clients together")
    parser.add_argument("--videos", type=Path, help="folder of videos that are sent as clips")
    parser.add_argument("--clip-share", type=float, default=0.05, help="share of the requests that are clips")
    parser.add_argument("--save", type=Path, help="file for the record, besides the last line of output")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and one JSON object."""
    options = parse_arguments(arguments)
    paths = sorted(options.videos.glob("*.mp4"))[:20] if options.videos else []
    videos = [path.read_bytes() for path in paths]
    process, port = start_server(options.model, [])
    try:
        for value in (SENTENCES[0], *({"video": base64.b64encode(one).decode()} for one in videos[:2])):
            ask(port, "POST", "/v1/embeddings", json.dumps({"input": value}).encode())  # decoder processes start
        found = run_load(port, options, videos)
    finally:
        process.terminate()
        process.wait(60)
    rows = {
        kind: {
            "requests": len(values),
            "passes": found["batches"][kind],
            "median_ms": 1000 * statistics.median(values),
            "p99_ms": 1000 * quantile(values, 0.99),
        }
        for kind, values in found.pop("seconds").items()
        if values
    }
    columns = ["requests", "passes", "median_ms", "p99_ms"]
    print_table(["kind", *columns], ([kind, *(row[one] for one in columns)] for kind, row in rows.items()))
    first, last = found["memory_mib"]
    print(f"\n{dict(found['statuses'])} in {found['total']:.1f} s; memory {first:.0f} MiB, at the end {last:.0f} MiB\n")
    options.model, options.videos = Path(options.model).name, len(videos)
    finish(record("serving", options, rows=rows, **found), options)


if __name__ == "__main__":
    main()
