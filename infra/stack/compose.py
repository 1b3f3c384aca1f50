"""Runs the servers of a stack in containers, through Docker Compose."""

import hashlib
import subprocess
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from infra.local_server import LocalServer
from infra.ports import LOOPBACK
from infra.settings import inherited_environment
from infra.stack.state import Means
from schemas.errors import ServerError, ServerStartError

FILE = Path(__file__).with_name("compose.yaml")
CALL_TIMEOUT_S = 120
SERVICES = ("kafka", "clickhouse", "store")
LOG_LINES = "15"


def choose_means(
    *, wanted: bool | None, kept: Means | None, engine_answers: Callable[[], bool]
) -> Means:
    """Containers or processes for the servers whose URL is not given.

    As the settings say, else as this stack did before, else by whether an engine answers. A stack
    stays with its means: the other one has other data.

    Raises:
        ServerStartError: If containers it must be, and no engine answers.
    """
    if wanted is False or (wanted is None and kept == "process"):
        return "process"
    if engine_answers():
        return "compose"
    if wanted:
        raise ServerStartError(
            "RENTROLL_COMPOSE is true, but no container engine with Compose answers"
            " (`docker info`, `docker compose version`): start one, or unset RENTROLL_COMPOSE"
        )
    if kept == "compose":
        raise ServerStartError(
            "the data of this stack is in containers, and no container engine answers: start it,"
            " or set RENTROLL_COMPOSE=false for local processes with empty data of their own"
        )
    return "process"


def store_url(port: int) -> str:
    """Where compose.yaml's PostgreSQL answers."""
    return f"postgresql+psycopg://rentroll:rentroll@{LOOPBACK}:{port}/rentroll"


def project(home: Path) -> str:
    """The Compose project of a stack: another folder, another project."""
    return f"rentroll-{hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:10]}"


def bring_up(
    home: Path, ports: Mapping[str, int], heap_mb: int, services: Collection[str]
) -> LocalServer:
    """The command that creates and starts containers, then ends; it may pull images first."""
    return LocalServer(
        name="docker compose",
        address=project(home),
        command=(*_command(home), "up", "--detach", *sorted(services)),
        log=home / "compose" / "printed.log",
        probe=lambda: False,
        environment={**inherited_environment(), **_variables(ports, heap_mb)},
    )


def take_down(home: Path) -> None:
    """Remove the containers and keep their volumes.

    Raises:
        ServerError: If Compose fails; holds what it said last.
    """
    try:
        done = _run(home, "down")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"docker compose down: {error}") from error
    if done.returncode != 0:
        said = "\n".join(f"  {line}" for line in done.stderr.splitlines()[-15:])
        raise ServerError(f"docker compose down failed:\n{said}")


def log_lines(home: Path, service: str) -> list[str]:
    """The last lines that a container wrote."""
    return _run(home, "logs", "--no-color", "--tail", LOG_LINES, service).stdout.splitlines()


def _run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """One short call of Compose."""
    return subprocess.run(  # noqa: S603 - fixed words and our own file
        [*_command(home), *arguments],
        env={**inherited_environment(), **_variables({}, 1)},
        capture_output=True,
        text=True,
        timeout=CALL_TIMEOUT_S,
        check=False,
    )


def _command(home: Path) -> tuple[str, ...]:
    return ("docker", "compose", "--file", str(FILE), "--project-name", project(home))


def _variables(ports: Mapping[str, int], heap_mb: int) -> dict[str, str]:
    """What compose.yaml asks for; the file is read as a whole, so no name may be missing."""
    named = {f"RENTROLL_PORT_{name.upper()}": str(ports.get(name, 1)) for name in SERVICES}
    return {**named, "RENTROLL_KAFKA_HEAP_MB": str(heap_mb)}
