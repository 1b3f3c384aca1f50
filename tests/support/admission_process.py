"""`rentroll admission` as a process of its own, and a client that asks it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from schemas.clock import SystemClock
from schemas.ids import uuid7
from schemas.units import NS_PER_MS
from tests.support.ingest_process import ROOT


@contextmanager
def admission_server(store_url: str, **environment: str) -> Iterator[str]:
    """`http://127.0.0.1:…` of a server on that store; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rentroll", "admission", "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"RENTROLL_STORE_URL": store_url, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert "http://" in line, f"the server did not start: exit {process.wait(10)}"
        yield line.split()[-1]
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def now_ms() -> int:
    return SystemClock().now_ns() // NS_PER_MS


def request_id() -> str:
    return uuid7(now_ms(), int.from_bytes(os.urandom(9), "big"))


def hold_request(tenant: str = "acme", **changes: Any) -> dict[str, Any]:
    """A request that may cost 100 tokens of input and 100 of output at most."""
    usual = {
        "request": request_id(),
        "tenant": tenant,
        "project": "chatbot",
        "model": "llama",
        "service_tier": "standard",
        "input_tokens": 100,
        "output_tokens": 100,
    }
    return usual | changes
