"""`rentroll metrics`: the health of ledger and store, for Prometheus."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(epilog="Example: [bold]rentroll metrics --port 9464[/]")(metrics)


def metrics(
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of 127.0.0.1; 0: any that is free.")
    ] = 9_464,
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Print them and end; status 1 if a server is away.")
    ] = False,
) -> None:
    """Serve /metrics, /healthz and /readyz: holes, held hours, dead letters, until Ctrl-C.

    Ledger and store are asked every RENTROLL_METRICS_REFRESH_S, however often one scrapes.
    """
    import signal

    from infra.clickhouse.client import connect
    from infra.endpoints import resolve
    from infra.logs import start_logs
    from infra.metrics_server import answering
    from infra.settings import InfraSettings
    from infra.stop_request import StopRequest
    from infra.store.engine import open_store
    from schemas.clock import SystemClock
    from streams.facts_exporter import FactsExporter, Servers
    from streams.settings import StreamSettings

    infra = InfraSettings()
    start_logs(infra, unset="json")
    found = resolve(infra)
    store = open_store(found.store_url)
    servers = Servers(lambda: connect(found.clickhouse_url, found.clickhouse_database), store)
    exporter = FactsExporter(servers, StreamSettings(), SystemClock())
    try:
        if once:
            answered = exporter.refresh()
            typer.echo(exporter.text(), nl=False)
            raise typer.Exit(0 if answered else 1)
        stop = StopRequest()
        stop.on((signal.SIGTERM, signal.SIGINT))
        with answering(port, exporter.told) as chosen:
            typer.echo(f"http://127.0.0.1:{chosen}/metrics")
            exporter.keep_fresh(stop)
    finally:
        store.dispose()
