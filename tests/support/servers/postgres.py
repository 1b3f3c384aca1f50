"""A real PostgreSQL server for tests: by URL, in a container, or as a local process."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.servers.engine import container_engine_answers

URL_VARIABLE = "RENTROLL_TEST_POSTGRES_URL"
IMAGE = "postgres:15-alpine"
SUPERUSER = "rentroll"
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
        pytest.skip(
            f"no PostgreSQL: set {URL_VARIABLE}, start a container engine, or install its binaries"
        )


@contextmanager
def _container() -> Iterator[str]:
    from testcontainers.postgres import PostgresContainer

    with PostgresContainer(IMAGE, username=SUPERUSER, driver="psycopg") as container:
        yield container.get_connection_url()


def _binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; Debian keeps it off the PATH."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(versions, key=lambda path: float(path.parent.name), reverse=True)
    on_path = shutil.which("pg_ctl")
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
        port = _start(binaries, folder, owner)
        try:
            yield f"postgresql+psycopg://{SUPERUSER}@127.0.0.1:{port}/postgres"
        finally:
            stop = ["stop", "--pgdata", str(cluster), "--mode", "immediate", "--wait"]
            _run([str(binaries / "pg_ctl"), *stop], folder, owner)


def _start(binaries: Path, folder: Path, owner: pwd.struct_passwd | None) -> int:
    """Start the server; it listens on the port that is returned, and on 127.0.0.1 only."""
    for attempt in range(1, START_ATTEMPTS + 1):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
            " -c fsync=off -c shared_buffers=16MB"
        )
        log = folder / "server.log"
        where = ["--pgdata", str(folder / "cluster"), "--log", str(log)]
        try:
            _run(
                [str(binaries / "pg_ctl"), "start", *where, "--wait", "-o", options], folder, owner
            )
        except subprocess.CalledProcessError as error:
            if attempt == START_ATTEMPTS:
                error.add_note(log.read_text()[-2_000:] if log.exists() else "it left no log")
                raise
        else:
            return port
    raise AssertionError("unreachable")


def _owner() -> pwd.struct_passwd | None:
    """Who runs the server where we are root: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for user in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(user)
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is neither user postgres nor nobody")


def _run(command: list[str], folder: Path, owner: pwd.struct_passwd | None) -> None:
    # Output goes to a file: the server would inherit a pipe and keep it open for ever.
    with (folder / "commands.log").open("ab") as log:
        subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=True,
            timeout=60,
            user=None if owner is None else owner.pw_uid,
            group=None if owner is None else owner.pw_gid,
            extra_groups=None if owner is None else [],
        )
