"""`rentroll admission`: the reservation endpoint that doors ask before a request runs."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(epilog="Example: rentroll admission --port 8790")(admission)


def admission(
    host: Annotated[
        str | None, typer.Option("--host", help="Else RENTROLL_BILLING_ADMISSION_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", help="Else RENTROLL_BILLING_ADMISSION_PORT; 0: a free one."),
    ] = None,
) -> None:
    """Reserve the worst case of requests against budgets and credits, until stopped.

    Doors that have RENTROLL_INFERENCE_ADMISSION_URL ask here.
    """
    import socket

    import uvicorn
    from rich.console import Console

    from billing.admission_server import Bounds, admission_app
    from billing.settings import BillingSettings
    from infra.endpoints import resolve
    from infra.settings import InfraSettings
    from infra.store.engine import open_store
    from infra.store.migrate import upgrade
    from schemas.clock import SystemClock

    settings, infra = BillingSettings(), InfraSettings()
    store_url = infra.store_url or resolve(infra).store_url
    upgrade(store_url)
    token_file = settings.admission_token_file
    bounds = Bounds(
        timeout_ms=settings.admission_timeout_ms,
        asks_at_once=settings.admission_batch_requests,
        prices_check_s=settings.admission_prices_check_s,
        token=token_file.read_text().strip() if token_file is not None else "",
    )
    listening = socket.create_server(
        (host or settings.admission_host, settings.admission_port if port is None else port)
    )
    address = listening.getsockname()
    Console(highlight=False).print(f"admission answers at http://{address[0]}:{address[1]}")
    config = uvicorn.Config(
        admission_app(open_store(store_url), bounds, SystemClock()),
        log_level="warning",
        access_log=False,
        lifespan="on",
    )
    uvicorn.Server(config).run(sockets=[listening])
