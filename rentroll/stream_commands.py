"""`rentroll worker`: takes events from the log into the ledger."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    pass


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(epilog="Example: rentroll worker --until-idle 2 --progress")(worker)


def worker(
    until_idle: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Stop when everything is in the ledger and nothing has come for so long.",
        ),
    ] = None,
    *,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show a progress bar instead of log lines.")
    ] = False,
) -> None:
    """Take events from Kafka into the ClickHouse ledger, each exactly once, until stopped."""
    from contextlib import nullcontext

    from streams.frugal_memory import allocate_frugally

    allocate_frugally()

    from infra.clickhouse.migrate import migrate
    from infra.endpoints import resolve
    from infra.kafka.topics import ensure_topics
    from infra.logs import start_logs
    from infra.settings import InfraSettings
    from rentroll.ingest_progress import ProgressBar
    from rentroll.kafka_commands import see_that_worker_may
    from streams.app import IngestWorker
    from streams.clickhouse_sink import ClickHouseSink
    from streams.settings import StreamSettings

    infra = InfraSettings()
    start_logs(infra, unset="json", quiet=progress)
    endpoints = resolve(infra)
    settings = StreamSettings()
    see_that_worker_may(endpoints.kafka_bootstrap, infra, settings)
    ensure_topics(endpoints.kafka_bootstrap)
    migrate(endpoints.clickhouse_url, endpoints.clickhouse_database)
    settings = StreamSettings()
    ingest = IngestWorker(
        settings,
        kafka_bootstrap=endpoints.kafka_bootstrap,
        ledger=ClickHouseSink(
            endpoints.clickhouse_url,
            endpoints.clickhouse_database,
            answer_timeout_s=settings.ingest_insert_timeout_s,
        ),
        folder=infra.home / "ingest",
    )
    with ProgressBar() if progress else nullcontext() as bar:
        ingest.run(until_idle_s=until_idle, on_progress=bar.show if bar is not None else None)
