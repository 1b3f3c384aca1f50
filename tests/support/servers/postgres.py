"""A real PostgreSQL server for tests: by URL, in a container, or as a local process."""

import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.guard import die_with_parent
from infra.ports import choose_port
from schemas.errors import ServerStartError
from tests.support.servers.engine import container_engine_answers

URL_VARIABLE = "RENTROLL_TEST_POSTGRES_URL"
IMAGE = "postgres:15-alpine"
SUPERUSER = "rentroll"
START_TIMEOUT_S = 60
START_ATTEMPTS = 3
"""Another process may take the free port between our look and the server's bind."""


@contextmanager
def postgres() -> Iterator[str]:
    """A server on which databases may be created, as the SQLAlchemy URL of one that is there.

    The URL's user must be a superuser: the fixtures empty tables that refuse to be emptied.
    """
    given = os.environ.get(URL_VARIABLE)
    binaries = _binaries()
    if given:
        yield given
    elif container_engine_answers():
        with _container() as url:
            yield url
    elif binaries is not None:
        with _local(binaries) as url:
            yield url
    else:
        raise ServerStartError(
            f"no PostgreSQL: set {URL_VARIABLE}, start a container engine, or install its binaries"
        )


@contextmanager
def _container() -> Iterator[str]:
    from testcontainers.postgres import PostgresContainer

    with PostgresContainer(IMAGE, username=SUPERUSER, driver="psycopg") as container:
        yield container.get_connection_url()


def _binaries() -> Path | None:
    """The folder of `initdb` and `postgres`; Debian keeps it off the PATH."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(versions, key=lambda path: float(path.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    candidates = [*newest_first, *([Path(on_path).parent] if on_path else [])]
    return next((path for path in candidates if (path / "initdb").is_file()), None)


@contextmanager
def _local(binaries: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="rentroll-postgres-") as name:
        folder = Path(name)
        owner = _owner()
        if owner is not None:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        cluster = folder / "cluster"
        access = ["--username", SUPERUSER, "--auth", "trust"]
        text = ["--encoding", "UTF8", "--locale", "C"]
        init = [str(binaries / "initdb"), "--pgdata", str(cluster), *access, *text, "--no-sync"]
        _run(init, folder, owner)
        process, port = _start(binaries, folder, owner)
        try:
            yield f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{port}/postgres"
        finally:
            # Immediate shutdown: nobody reads this cluster again.
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=START_TIMEOUT_S)


def _start(
    binaries: Path, folder: Path, owner: pwd.struct_passwd | None
) -> tuple["subprocess.Popen[bytes]", int]:
    """Start a server that dies with us, on 127.0.0.1 only; returns it with its port."""
    log = folder / "server.log"
    for attempt in range(START_ATTEMPTS):
        port = choose_port(f"{folder}/{attempt}")
        settings = [f"port={port}", "listen_addresses=127.0.0.1", "fsync=off"]
        settings += [f"unix_socket_directories={folder}", "shared_buffers=16MB"]
        arguments = [part for setting in settings for part in ("-c", setting)]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(binaries / "postgres"), "-D", str(folder / "cluster"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_dies_with_us(),  # noqa: PLW1509 - one call into libc
                **_as_owner(folder, owner),
            )
        if _becomes_ready(binaries, process, port):
            return process, port
        process.kill()
        process.wait(timeout=START_TIMEOUT_S)
    raise ServerStartError(f"PostgreSQL did not start:\n{log.read_text()[-2_000:]}")


def _becomes_ready(binaries: Path, process: "subprocess.Popen[bytes]", port: int) -> bool:
    ask = [str(binaries / "pg_isready"), "--quiet", "--host", "127.0.0.1", "--port", str(port)]
    end = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < end:
        if subprocess.run(ask, check=False, timeout=START_TIMEOUT_S).returncode == 0:
            return True
        time.sleep(0.05)
    return False


def _dies_with_us() -> Callable[[], None] | None:
    return functools.partial(die_with_parent, os.getpid()) if sys.platform == "linux" else None


def _owner() -> pwd.struct_passwd | None:
    """Who runs the server where we are root: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for user in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(user)
        except KeyError:
            continue
    raise ServerStartError(
        "PostgreSQL does not run as root, and there is neither user postgres nor nobody"
    )


def _run(command: list[str], folder: Path, owner: pwd.struct_passwd | None) -> None:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        **_as_owner(folder, owner),
    )
    if done.returncode != 0:
        raise ServerStartError(f"{command[0]}: {done.stderr[-2_000:]}")


def _as_owner(folder: Path, owner: pwd.struct_passwd | None) -> dict[str, Any]:
    """How to run a command in `folder` as its owner."""
    if owner is None:
        return {"cwd": folder}
    return {"cwd": folder, "user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
