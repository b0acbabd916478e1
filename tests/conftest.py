"""What every test runs under: offline, seeded, on one thread, with a cache folder of its own.

Environment variables are set before the first import of a Hugging Face library, because those libraries read them
once. Nothing here imports `lfvila_hf`, so that a test of its import time or of a part of it starts from nothing.
"""

from __future__ import annotations

import atexit
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

_cache_folder = tempfile.TemporaryDirectory(prefix="lfvila_hf_tests_")
atexit.register(_cache_folder.cleanup)
os.environ.update(
    HF_HOME=_cache_folder.name,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    MPLBACKEND="Agg",
    RAY_USAGE_STATS_ENABLED="0",  # its collector asks a server that is not there, in a thread that outlives its test
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from transformers import BertTokenizer

torch.set_num_threads(1)

SEED = 20_221_012
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = "a an and at ball blue box circle first from green in it left man of red rides right square the then to woman"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = ".,;:!?'-"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from the same random state, whatever ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 -- libraries under test draw from the global generator
    torch.manual_seed(SEED)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse connections that leave this machine; a server of a test's own on the loopback is fine."""
    connect = socket.socket.connect

    def connect_to_loopback(self: socket.socket, address: Any) -> None:
        is_internet = self.family in (socket.AF_INET, socket.AF_INET6)
        if is_internet and address[0] not in ("localhost", "::1") and not str(address[0]).startswith("127."):
            raise OSError(f"tests run offline; a connection to {address!r} was refused")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_to_loopback)
    yield


@pytest.fixture(scope="session")
def tiny_vocabulary() -> dict[str, int]:
    """A vocabulary of about a hundred tokens under which every lower-case English text is free of `[UNK]`.

    Common words are one token each; any other word is spelled in letters (`z ##e ##b ##r ##a`).
    """
    letters = [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
    tokens = [*SPECIAL_TOKENS, *letters, *PUNCTUATION, *WORDS.split()]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


@pytest.fixture
def tiny_tokenizer(tiny_vocabulary: dict[str, int]) -> BertTokenizer:
    """A real BERT tokenizer (lower-casing, word pieces) over `tiny_vocabulary`, made in memory."""
    from transformers import BertTokenizer

    return BertTokenizer(vocab=dict(tiny_vocabulary))
