"""Processes that use the Hub on this machine as anybody uses the Hub.

huggingface_hub reads its settings once, and the tests' own process is set to offline; so every client is a process of
its own, which also makes "pull what was pushed" honest: nothing of the publisher is in its memory or its cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hub_server import LocalHub

TESTS = Path(__file__).resolve().parents[1]
HIDDEN = "import sys\nsys.modules['lfvila_hf'] = None  # as if it were not installed\n"


def run_client(
    program: str, hub: LocalHub, home: Path, *arguments: object, token: str | None = "hf_writer", hidden: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a Python program as a client of `hub`.

    Args:
        program: its source; `tests/` is on its path.
        hub: where it finds its Hub.
        home: its cache folder.
        *arguments: for `sys.argv`.
        token: what it identifies itself with.
        hidden: make `lfvila_hf` impossible to import.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= hub.environment(home, token) | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", (HIDDEN if hidden else "") + program, *map(str, arguments)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def succeed(run: subprocess.CompletedProcess[str]) -> str:
    """What a client printed; it must have ended well."""
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    return run.stdout
