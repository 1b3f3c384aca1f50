"""A server as a local process: how it is launched, known to be ready, and stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra import guard
from schemas.errors import ServerStartError

POLL_S = 0.05
LAST_LINES = 15


@dataclass(frozen=True, slots=True)
class LocalServer:
    """What it takes to run one server as a process of ours.

    `log` receives everything the process prints; `own_log` is the file that the server writes
    itself, where it has one. `probe` answers whether the server serves, at once.
    """

    name: str
    address: str
    command: tuple[str, ...]
    log: Path
    probe: Callable[[], bool]
    own_log: Path | None = None


def launch(server: LocalServer) -> subprocess.Popen[bytes]:
    """Start the process; it is killed when this process dies. Call it from the main thread.

    Linux ties the child to the *thread* that started it: from a pool it would die too early.
    """
    server.log.parent.mkdir(parents=True, exist_ok=True)
    with server.log.open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own command, no shell
            [sys.executable, "-E", "-S", guard.__file__, str(os.getpid()), *server.command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_until_ready(
    server: LocalServer, process: subprocess.Popen[bytes], timeout_s: float
) -> float:
    """Seconds until the server served.

    Raises:
        ServerStartError: If it ended or did not serve in time; holds its last log lines.
    """
    began = time.monotonic()
    while not server.probe():
        if process.poll() is not None:
            raise ServerStartError(why_not_started(server, f"ended with {process.returncode}"))
        if time.monotonic() - began > timeout_s:
            raise ServerStartError(why_not_started(server, f"did not serve in {timeout_s:g} s"))
        time.sleep(POLL_S)
    return time.monotonic() - began


def stop(process: subprocess.Popen[bytes], grace_s: float = 15) -> None:
    """Ask the process to stop, and kill it where it does not within `grace_s`."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def why_not_started(server: LocalServer, what: str) -> str:
    """The message of a server that failed: what happened, and its last log lines."""
    lines = last_lines(server.log) or (last_lines(server.own_log) if server.own_log else [])
    shown = "\n".join(f"  {line}" for line in lines) or "  (it wrote no log)"
    return f"{server.name} at {server.address} {what}; {server.log} ends with:\n{shown}"


def last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """The last lines of a log file, without reading all of it; none where there is no file."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 500 * count))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
