"""A server as a local process: how it is launched, known to be ready, and stopped."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.guard import guarded
from schemas.errors import ServerStartError

POLL_S = 0.05
LAST_LINES = 15


@dataclass(frozen=True, slots=True)
class LocalServer:
    """What it takes to run one server as a process of ours.

    `log` receives everything the process prints; `own_log` is the file that the server writes
    itself, where it has one. `probe` answers at once whether the server serves. `environment` is
    all that the process gets; None hands this process's own on.
    """

    name: str
    address: str
    command: tuple[str, ...]
    log: Path
    probe: Callable[[], bool]
    own_log: Path | None = None
    environment: Mapping[str, str] | None = None


def launch(server: LocalServer) -> subprocess.Popen[bytes]:
    """Start the process; it is killed when this process dies. Call it from the main thread.

    Linux ties the child to the *thread* that started it: from a pool it would die too early.
    The logs of the run before move aside, so that a failure shows lines of its own run only.
    """
    server.log.parent.mkdir(parents=True, exist_ok=True)
    for log in (server.log, server.own_log):
        if log is not None and log.exists():
            log.replace(log.with_name(f"{log.name}.previous"))
    with server.log.open("wb") as printed:
        return subprocess.Popen(  # noqa: S603 - our own command, no shell
            guarded(server.command),
            env=server.environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal goes to the whole group: only the keeper may act on it.
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
    message = f"{server.name} at {server.address} {what}"
    logs = [(log, last_lines(log)) for log in (server.log, server.own_log) if log is not None]
    for log, lines in logs:
        if lines:
            message += f"\n{log} ends with:\n" + "\n".join(f"  {line}" for line in lines)
    return message if any(lines for _, lines in logs) else f"{message}; it wrote no log"


def last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """The last lines of a log file, without reading all of it; none where there is no file."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 500 * count))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
