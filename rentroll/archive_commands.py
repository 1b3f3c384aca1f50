"""`rentroll archive run|verify|list`: raw records in storage that lasts, and the proof of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from streams.archive import Archive
    from streams.archive_verifying import Recorded


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    group = typer.Typer(
        name="archive",
        no_args_is_help=True,
        help="Keep every raw record in a chain of Parquet files, and prove that it is whole.",
    )
    group.command(epilog="Example: [bold]rentroll archive run --until-idle 2 --progress[/]")(run)
    group.command(epilog="Example: [bold]rentroll archive verify[/]")(verify)
    group.command("list", epilog="Example: [bold]rentroll archive list --files[/]")(list_archive)
    app.add_typer(group)


def run(
    until_idle: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Stop when everything is archived and nothing has come for so long.",
        ),
    ] = None,
    *,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show a progress bar instead of log lines.")
    ] = False,
) -> None:
    """Archive raw records from Kafka, each range exactly once, until stopped.

    Where the archive lies is said by RENTROLL_ARCHIVE_URL: a folder, or a URL such as
    s3://bucket/prefix. Several may run at once: they share the partitions out.
    """
    import asyncio
    import signal

    from infra.endpoints import resolve
    from infra.kafka.topics import ensure_topics
    from infra.settings import InfraSettings
    from infra.stop_request import StopRequest
    from infra.store.engine import open_store
    from infra.store.migrate import upgrade
    from rentroll.ingest_progress import ProgressBar
    from schemas.clock import SystemClock
    from schemas.topics import TOPICS
    from streams.archive_heads import StoredHeads
    from streams.archive_log import GroupLog
    from streams.archive_worker import Archiver
    from streams.settings import StreamSettings
    from streams.telemetry import log_as_json

    log_as_json(quiet=progress)
    settings, endpoints = StreamSettings(), resolve(InfraSettings())
    ensure_topics(endpoints.kafka_bootstrap)
    upgrade(endpoints.store_url)
    store = open_store(endpoints.store_url)
    stop = StopRequest()
    stop.on((signal.SIGTERM, signal.SIGINT))

    async def work() -> None:
        group = GroupLog(
            endpoints.kafka_bootstrap,
            settings.archive_group,
            session_timeout_s=settings.ingest_session_timeout_s,
            heartbeat_s=settings.ingest_heartbeat_s,
            fetch_bytes=settings.ingest_fetch_bytes,
        )
        heads = StoredHeads(store, SystemClock())
        archiver = Archiver(_archive(), group, heads, settings)
        with ProgressBar("archive", shown=progress) as bar:
            await archiver.run(
                [topic.name for topic in TOPICS],
                stop,
                until_idle_s=until_idle,
                on_progress=bar.show if progress else None,
            )

    try:
        asyncio.run(work())
    finally:
        store.dispose()


def verify(
    *,
    without_store: Annotated[
        bool,
        typer.Option(
            "--without-store",
            help="Only the archive itself: a chain that was cut at its end then looks whole.",
        ),
    ] = False,
) -> None:
    """Hold every file and every link of the archive to its hash; name the first fault.

    Finds a flipped bit, a removed file, and a manifest that was edited, reordered or cut: the
    billing store knows every entry. Ends with status 1 if anything is wrong.
    """
    from rich.console import Console

    from rentroll.archive_views import steps_bar, verification_text
    from streams.archive_verifying import verify as verify_archive

    console = Console()
    archive = _archive()
    with _store() as store, steps_bar() as progress:
        recorded = None if without_store else _recorded(store)
        found = verify_archive(archive, recorded, lambda done, of: progress("entries", done, of))
    console.print(verification_text(found, with_store=not without_store))
    if found.faults:
        raise typer.Exit(1)


def list_archive(
    *,
    files: Annotated[bool, typer.Option("--files", help="Every range, not only the sums.")] = False,
) -> None:
    """Show what is archived: by partition, or every range with its file."""
    from rich.console import Console

    from rentroll.archive_views import files_table, partitions_table

    archive = _archive()
    table = files_table(archive) if files else partitions_table(archive)
    Console().print(table)


def _archive() -> "Archive":
    from infra.objects.opening import open_objects
    from infra.settings import InfraSettings
    from streams.archive import Archive
    from streams.settings import StreamSettings

    url = StreamSettings().archive_url or str(InfraSettings().home / "archive")
    return Archive(open_objects(url))


@contextmanager
def _store() -> Iterator["Engine"]:
    from infra.endpoints import resolve
    from infra.settings import InfraSettings
    from infra.store.engine import open_store
    from infra.store.migrate import upgrade

    url = resolve(InfraSettings()).store_url
    upgrade(url)
    store = open_store(url)
    try:
        yield store
    finally:
        store.dispose()


def _recorded(store: "Engine") -> "Recorded":
    from infra.store.archive_heads import archive_heads_of, archived_places
    from streams.archive_verifying import RecordedEntry

    return {
        place: {
            head.number: RecordedEntry(head.sha256, head.end_offset, head.recorded_at_ms)
            for head in archive_heads_of(store, *place)
        }
        for place in archived_places(store)
    }
