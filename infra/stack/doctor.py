"""Checks whether this machine can run the stack, and says how to mend what is missing."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from infra import container_engine
from infra.addresses import accepts_connections, without_secret
from infra.clickhouse.local import answers_ping
from infra.kafka.jars import OLDEST_JAVA, default_cache, java_version
from infra.kafka.probe import trouble
from infra.kafka.rights import Role, missing, playable
from infra.kafka.security import kafka_security
from infra.ports import choose_port
from infra.settings import InfraSettings
from infra.stack.members import STRIPE_API
from schemas.errors import PortBusyError, RentrollError, SettingsError

OLDEST_PYTHON = (3, 11)
FREE_DISK_BYTES = 2 * 1024**3
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `remedy` says what to do where it is not ok."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def examine(settings: InfraSettings) -> Iterator[Check]:
    """Every check, one after the other, each as soon as it is known."""
    yield _python()
    engine = container_engine.compose_answers()
    yield _container_engine(settings, answers=engine)
    if settings.kafka_bootstrap is None and (settings.compose is False or not engine):
        yield _java()
        yield _maven()
    if settings.clickhouse_url is None and (settings.compose is False or not engine):
        yield _clickhouse_wheel()
    yield _write_access(settings.home)
    yield _disk_space(settings.home)
    yield _loopback(settings.home)
    for check in (_kafka, _clickhouse, _store, _stripe):
        yield from check(settings)


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("Python", sys.version_info >= OLDEST_PYTHON, found, "install Python 3.11 or newer")


def _container_engine(settings: InfraSettings, *, answers: bool) -> Check:
    if answers:
        unused = " (not used: RENTROLL_COMPOSE is false)" if settings.compose is False else ""
        return Check("Container engine", ok=True, found=f"answers{unused}")
    return Check(
        "Container engine",
        ok=settings.compose is not True,
        found="does not answer; servers run as local processes",
        remedy="start Docker with Compose, or unset RENTROLL_COMPOSE",
    )


def _java() -> Check:
    java = shutil.which("java")
    found = java_version(java) if java else 0
    return Check(
        "Java",
        ok=found >= OLDEST_JAVA,
        found=f"{found or 'unknown version'} ({java})" if java else "not found",
        remedy=f"install Java {OLDEST_JAVA} or newer (Debian: apt install openjdk-17-jre-headless,"
        " macOS: brew install openjdk), start a container engine,"
        " or set RENTROLL_KAFKA_BOOTSTRAP",
    )


def _maven() -> Check:
    if default_cache().is_dir():
        return Check("Maven", ok=True, found=f"not needed: Kafka is in {default_cache()}")
    maven = shutil.which("mvn")
    return Check(
        "Maven",
        ok=maven is not None,
        found=maven or "not found",
        remedy="install Maven, which fetches Kafka's jars once (Debian: apt install maven,"
        " macOS: brew install maven), or set RENTROLL_KAFKA_BOOTSTRAP",
    )


def _clickhouse_wheel() -> Check:
    try:
        found = f"chdb-core {version('chdb-core')}"
    except PackageNotFoundError:
        return Check("ClickHouse", ok=False, found="chdb-core is missing", remedy="make setup")
    return Check("ClickHouse", ok=True, found=found)


def _write_access(home: Path) -> Check:
    folder = _nearest_folder(home)
    return Check(
        "Write access",
        ok=os.access(folder, os.W_OK | os.X_OK),
        found=str(folder),
        remedy=f"make {folder} writable, or set RENTROLL_HOME to another folder",
    )


def _disk_space(home: Path) -> Check:
    free = shutil.disk_usage(_nearest_folder(home)).free
    return Check(
        "Disk space",
        ok=free >= FREE_DISK_BYTES,
        found=f"{free // GIB} GiB free",
        remedy=f"free {FREE_DISK_BYTES // GIB} GiB, or set RENTROLL_HOME to a folder elsewhere",
    )


def _nearest_folder(home: Path) -> Path:
    """The folder itself, or the one in which it would be made."""
    resolved = home.resolve()
    return next(folder for folder in (resolved, *resolved.parents) if folder.is_dir())


def _loopback(home: Path) -> Check:
    try:
        port = choose_port(str(home.resolve()))
    except PortBusyError as error:
        return Check("Ports of 127.0.0.1", ok=False, found=str(error), remedy="stop some servers")
    return Check("Ports of 127.0.0.1", ok=True, found=f"free, such as {port}")


def _kafka(settings: InfraSettings) -> Iterator[Check]:
    bootstrap = settings.kafka_bootstrap
    if bootstrap is None and settings.kafka_security_protocol == "PLAINTEXT":
        return
    name = "RENTROLL_KAFKA_BOOTSTRAP"
    try:
        security = kafka_security(settings)
        found = trouble(bootstrap or "", security)
    except SettingsError as error:
        yield Check(name, ok=False, found=str(error), remedy="mend these settings")
        return
    if found is None:
        shown = f"{bootstrap} answers {security.protocol}"
        yield Check(name, ok=True, found=shown)
        return
    remedy = f"start that server or mend {name}; unset it to let the local stack provide one"
    yield Check(name, ok=False, found=found.text, remedy="as it says" if found.lasting else remedy)


def examine_rights(settings: InfraSettings, known: Sequence[Role]) -> Iterator[Check]:
    """Whom the brokers take this user for, and which of the roles it may play.

    Nothing where settings give no broker, or one that does not answer: `examine` says so.
    """
    bootstrap = settings.kafka_bootstrap
    if bootstrap is None or settings.kafka_security_protocol == "PLAINTEXT":
        return
    from infra.kafka.admin import granted

    name, needed = "Kafka rights", "grant one role: `rentroll kafka acls` prints how"
    try:
        security = kafka_security(settings)
        if trouble(bootstrap, security) is not None:
            return
        wanted = [right for role in known for right in role.rights]
        may = granted(bootstrap, security, wanted)
    except RentrollError as error:
        yield Check(name, ok=False, found=str(error), remedy="as it says")
        return
    playing = playable(known, may)
    shown = f"{security.who()} may be {', '.join(playing) or 'none of our roles'}"
    if not playing:
        nearest = min((missing(role.rights, may) for role in known if role.rights), key=len)
        shown += f"; what it lacks at least: {', '.join(nearest)}"
    yield Check(name, bool(playing), shown, needed)


def _clickhouse(settings: InfraSettings) -> Iterator[Check]:
    url = settings.clickhouse_url

    def server_version() -> str:
        from infra.clickhouse.client import connect

        if not answers_ping(str(url)):
            return ""
        with connect(str(url)) as client:
            return f"ClickHouse {client.server_version}"

    if url is not None:
        yield _url("RENTROLL_CLICKHOUSE_URL", url, server_version)


def _store(settings: InfraSettings) -> Iterator[Check]:
    url = settings.store_url

    def server_version() -> str:
        from sqlalchemy import text

        from infra.store.engine import open_store

        sqlite = str(url).startswith("sqlite")
        query = "SELECT sqlite_version()" if sqlite else "SHOW server_version"
        with open_store(str(url)).connect() as connection:
            found = connection.execute(text(query)).scalar_one()
        return f"{'SQLite' if sqlite else 'PostgreSQL'} {found}"

    if url is not None:
        yield _url("RENTROLL_STORE_URL", url, server_version)


def _stripe(settings: InfraSettings) -> Iterator[Check]:
    if settings.stripe_api_key is not None or settings.stripe_api_base is not None:
        base = settings.stripe_api_base or STRIPE_API
        yield _url("Stripe", base, lambda: _yes(accepts_connections(base)))


def _yes(answers: bool) -> str:  # noqa: FBT001
    return "answers" if answers else ""


def _url(name: str, url: str, ask: Callable[[], str]) -> Check:
    """Whether the server at a URL that somebody gave answers; `ask` says what it is."""
    shown = without_secret(url)
    try:
        found = ask()
    except (OSError, ValueError, RentrollError) as error:
        found = ""
        shown = f"{shown}: {error}"
    remedy = f"start that server or mend {name}; unset it to let the local stack provide one"
    return Check(name, bool(found), f"{shown} {found or 'does not answer'}", remedy)
