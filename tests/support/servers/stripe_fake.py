"""The stand-in for Stripe as a process of its own, with the control that tests have over it."""

import json
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class StandIn:
    """A running stand-in: its address, its faults, its clock, what it was asked."""

    def __init__(self, folder: Path, *, faults: bool = True) -> None:
        self.folder = folder
        self._faults = ["--faults"] if faults else []
        self.base, self._process = self._start(0)

    def _start(self, port: int) -> tuple[str, subprocess.Popen[str]]:
        command = [sys.executable, "-m", "infra.stripe_fake", *self._faults]
        command += ["--port", str(port), "--data", str(self.folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first_line = process.stdout.readline()
        assert "http://" in first_line, f"the stand-in did not start: exit {process.wait(10)}"
        return first_line.split()[-1], process

    def kill_and_restart(self) -> None:
        """kill -9, then the same port and folder again."""
        self._process.kill()
        self._reap()
        self.base, self._process = self._start(int(self.base.rsplit(":", 1)[1]))

    def stop(self) -> None:
        self._process.terminate()
        self._reap()

    def _reap(self) -> None:
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def plant(self, method: str, path: str, kind: str, **details: int) -> None:
        """Plant a fault; `details` are times, status, latency_ms."""
        wanted = {"method": method, "path": path, "kind": kind} | details
        self._control("POST", "faults", wanted)

    def clear_faults(self) -> None:
        self._control("DELETE", "faults")

    def advance(self, seconds: int) -> None:
        """Move the stand-in's clock forward."""
        self._control("POST", "clock", {"advance_s": seconds})

    def send_webhooks(self, url: str, secret: str) -> None:
        """Send what happens from now on to an address, signed with a secret."""
        self._control("POST", "webhooks", {"url": url, "secret": secret})

    def misbehave(self, **manner: int) -> None:
        """How webhooks are delivered: copies, gather (then the newest first), drop."""
        self._control("POST", "manner", manner)

    def deliveries(self) -> list[dict[str, Any]]:
        """Every webhook that was sent since its start, with the answer's status."""
        found: list[dict[str, Any]] = self._control("GET", "deliveries")["deliveries"]
        return found

    def fail_payment(self, invoice: str) -> None:
        """A payment of an open invoice is refused."""
        self._control("POST", "fail_payment", {"invoice": invoice})

    def exchanges(self, method: str = "", path: str = "") -> list[dict[str, Any]]:
        """Requests served since its start, with their answers, filtered by method and path."""
        query = urllib.parse.urlencode({"path": path})
        found: list[dict[str, Any]] = self._control("GET", f"exchanges?{query}")["exchanges"]
        return [one for one in found if method in one["method"]]

    def _control(self, method: str, name: str, form: dict[str, Any] | None = None) -> Any:
        body = urllib.parse.urlencode(form or {}).encode()
        request = urllib.request.Request(f"{self.base}/_control/{name}", body, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@contextmanager
def stand_in(folder: Path, *, faults: bool = True) -> Iterator[StandIn]:
    """A stand-in that keeps its state in `folder`."""
    server = StandIn(folder, faults=faults)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def stripe_fake() -> Iterator[str]:
    """The base URL of an empty stand-in."""
    with (
        tempfile.TemporaryDirectory(prefix="rentroll-stripe-") as folder,
        stand_in(Path(folder)) as server,
    ):
        yield server.base
