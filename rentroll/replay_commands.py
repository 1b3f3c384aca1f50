"""`rentroll replay`: the same records again, by the same code, held to what was published."""

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from infra.endpoints import Endpoints
    from schemas.periods import Period
    from streams.replay import Progress, Replayed
    from streams.replay_reading import ArchiveSource, KafkaSource
    from streams.settings import StreamSettings

_MONTH = re.compile(r"[0-9]{4}-[0-9]{2}")


class Origin(StrEnum):
    """Where records are replayed from."""

    KAFKA = "kafka"
    ARCHIVE = "archive"


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(epilog="Example: [bold]rentroll replay --from archive --range 2026-10[/]")(replay)


def replay(
    origin: Annotated[
        Origin, typer.Option("--from", help="Read records from the archive or from Kafka.")
    ] = Origin.ARCHIVE,
    hours: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="RANGE",
            help="A month (2026-10), an hour (2026-10-01T00), or hours up to an excluded one"
            " (2026-10-01T00..2026-10-02T00); UTC.",
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="DATABASE",
            help="Scratch database; made new, and dropped behind. Default: the ledger's name"
            " with _scratch behind it.",
        ),
    ] = None,
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the scratch database.")] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Rebuild the whole ledger from the archive and the log, and put it in the place"
            " of the one in use if every run came out identical.",
        ),
    ] = False,
) -> None:
    """Replay published hours into a scratch database; print [bold]identical[/], or what differs.

    Compared are the digest, every roll-up row and every event row, under the offsets, sources and
    decisions of each published run. Ends with status 1 if anything differs.
    """
    from rich.console import Console

    from infra.endpoints import resolve
    from infra.settings import InfraSettings
    from infra.store.engine import open_store
    from rentroll.archive_views import replay_text, steps_bar

    if everything == (hours is not None):
        raise typer.BadParameter("give either --range 2026-10 or --all")
    endpoints = resolve(InfraSettings())
    store = open_store(endpoints.store_url)
    try:
        with steps_bar() as progress:
            if everything:
                replayed, what = _rebuilt(endpoints, store, into, progress), "the whole ledger"
            else:
                period = _period(hours or "")
                what = period.name
                replayed = _replayed(endpoints, store, period, (origin, into, keep), progress)
    finally:
        store.dispose()
    Console().print(replay_text(replayed, what))
    if not replayed.identical:
        raise typer.Exit(1)


def _replayed(
    endpoints: "Endpoints",
    store: "Engine",
    period: "Period",
    how: tuple[Origin, str | None, bool],
    progress: "Progress",
) -> "Replayed":
    from streams.replay import Replay, ReplayTarget
    from streams.settings import StreamSettings

    origin, into, keep = how
    settings, ledger = StreamSettings(), endpoints.clickhouse_database
    target = ReplayTarget(endpoints.clickhouse_url, into or f"{ledger}_scratch", ledger)
    run = Replay(target, store, settings, progress)
    source = (
        archive_source(settings) if origin is Origin.ARCHIVE else log_source(endpoints, settings)
    )
    run.prepare()
    try:
        return run.hours(source, period)
    finally:
        if not keep:
            run.drop()


def _rebuilt(
    endpoints: "Endpoints", store: "Engine", into: str | None, progress: "Progress"
) -> "Replayed":
    from streams.rebuild import Sources, rebuild
    from streams.replay import ReplayTarget
    from streams.settings import StreamSettings

    settings, ledger = StreamSettings(), endpoints.clickhouse_database
    target = ReplayTarget(endpoints.clickhouse_url, into or f"{ledger}_scratch", ledger)
    sources = Sources(archive_source(settings), log_source(endpoints, settings))
    return rebuild(target, store, sources, settings, progress)


def archive_source(settings: "StreamSettings") -> "ArchiveSource":
    """The archive that the settings name, else the one in this folder's home."""
    from infra.objects.opening import open_objects
    from infra.settings import InfraSettings
    from streams.archive import Archive
    from streams.replay_reading import ArchiveSource

    url = settings.archive_url or str(InfraSettings().home / "archive")
    return ArchiveSource(Archive(open_objects(url)), settings.replay_rows)


def log_source(endpoints: "Endpoints", settings: "StreamSettings") -> "KafkaSource":
    """The log itself."""
    from streams.replay_reading import KafkaSource

    return KafkaSource(endpoints.kafka_bootstrap, settings.replay_rows, settings.ingest_fetch_bytes)


def _period(text: str) -> "Period":
    """The hours that a range names.

    Raises:
        ContractError: If it names none.
    """
    from schemas.errors import ContractError
    from schemas.periods import Period, parse_hour, parse_period

    if _MONTH.fullmatch(text):
        return parse_period(text)
    first, dots, end = text.partition("..")
    if not dots:
        return parse_hour(text)
    start, stop = parse_hour(first).start, parse_hour(end).start
    if start >= stop:
        raise ContractError(f"a range goes forward: {text!r}")
    return Period(start, stop, text)
