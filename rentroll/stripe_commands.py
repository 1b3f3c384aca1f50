"""`rentroll stripe`: hear webhooks, dun who does not pay, catch up with what was missed."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import threading

    from rich.console import Console
    from sqlalchemy import Engine

    from billing.dunning_run import DunningResult
    from billing.settings import BillingSettings
    from billing.stripe_gateway import StripeGateway
    from billing.webhook_server import WebhookBounds

stripe = typer.Typer(name="stripe", no_args_is_help=True, help="Payments: webhooks and dunning.")
KeysOption = Annotated[
    Path | None,
    typer.Option("--keys-file", help="Write the doors' snapshot here whenever access changes."),
]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.add_typer(stripe)


@stripe.command()
def listen(
    *,
    host: Annotated[
        str | None, typer.Option("--host", help="Else RENTROLL_BILLING_WEBHOOK_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", help="Else RENTROLL_BILLING_WEBHOOK_PORT; 0: a free one."),
    ] = None,
    keys_file: KeysOption = None,
) -> None:
    """Take Stripe's webhooks and dun, until stopped.

    Needs RENTROLL_BILLING_WEBHOOK_SECRET. Point the endpoint at POST /v1/stripe/events, through a
    proxy that speaks TLS. Safe to kill: Stripe sends again what was not answered.

    Example: [bold]rentroll stripe listen --port 8791 --keys-file keys.json[/]
    """
    import socket
    import threading

    import uvicorn
    from rich.console import Console

    from billing.collecting import Collector
    from billing.settings import BillingSettings
    from billing.stripe_gateway import StripeGateway
    from billing.webhook_server import EVENTS, WebhookApp
    from rentroll.opened import endpoints_now, store_opened
    from schemas.clock import SystemClock

    settings, clock, endpoints = BillingSettings(), SystemClock(), endpoints_now()
    bounds = _bounds(settings)
    console, stop = Console(highlight=False), threading.Event()
    with (
        store_opened(endpoints) as store,
        closing(StripeGateway(endpoints.stripe_api_key, endpoints.stripe_api_base)) as gateway,
        socket.create_server(
            (host or settings.webhook_host, settings.webhook_port if port is None else port)
        ) as listening,
    ):
        on_access = _exporter(store, keys_file)
        app = WebhookApp(Collector(store, gateway, clock), bounds, clock, on_access)
        address = listening.getsockname()
        console.print(f"webhooks go to http://{address[0]}:{address[1]}{EVENTS}", soft_wrap=True)
        dunning = threading.Thread(
            target=_dun_often,
            args=(store, gateway, settings, on_access, stop, console),
            name="dunning",
        )
        dunning.start()
        try:
            config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on")
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            stop.set()
            dunning.join()


@stripe.command()
def dun(*, keys_file: KeysOption = None) -> None:
    """Remind and suspend whoever is due for it, once; each invoice is asked of Stripe first.

    What `rentroll stripe listen` does every RENTROLL_BILLING_DUNNING_CHECK_S.

    Example: [bold]rentroll stripe dun[/]
    """
    from rich.console import Console

    from billing.settings import BillingSettings
    from billing.stripe_gateway import StripeGateway
    from rentroll.opened import endpoints_now, store_opened

    endpoints, console = endpoints_now(), Console(highlight=False)
    with (
        store_opened(endpoints) as store,
        closing(StripeGateway(endpoints.stripe_api_key, endpoints.stripe_api_base)) as gateway,
    ):
        result = _dun_once(store, gateway, BillingSettings(), _exporter(store, keys_file))
    _say(result, console)
    if result.failed:
        raise typer.Exit(1)


@stripe.command()
def sync(*, keys_file: KeysOption = None) -> None:
    """Ask Stripe about every invoice that may still be paid: after webhooks were lost.

    Example: [bold]rentroll stripe sync[/]
    """
    from collections import Counter

    from rich.console import Console
    from rich.progress import track

    from billing.collecting import Collector
    from billing.stripe_gateway import StripeGateway
    from rentroll.opened import endpoints_now, store_opened
    from schemas.clock import SystemClock

    endpoints, console = endpoints_now(), Console(highlight=False)
    seen: Counter[str] = Counter()
    with (
        store_opened(endpoints) as store,
        closing(StripeGateway(endpoints.stripe_api_key, endpoints.stripe_api_base)) as gateway,
    ):
        collector, on_access = Collector(store, gateway, SystemClock()), _exporter(store, keys_file)
        for one in track(collector.unpaid(), "asking Stripe", console=console, transient=True):
            taken = collector.take(one)
            seen[taken.outcome] += 1
            if taken.restored:
                on_access(taken.restored)
    console.print(", ".join(f"{count} {what}" for what, count in seen.items()) or "none is unpaid")
    if seen["conflict"]:
        console.print("[red]conflict:[/] Stripe shows what cannot be; the log names each invoice")
        raise typer.Exit(1)


def _bounds(settings: "BillingSettings") -> "WebhookBounds":
    from billing.webhook_server import WebhookBounds
    from schemas.errors import SettingsError

    given = settings.webhook_secret.get_secret_value() if settings.webhook_secret else ""
    secrets = tuple(one.strip() for one in given.split(",") if one.strip())
    if not secrets:
        raise SettingsError(
            "RENTROLL_BILLING_WEBHOOK_SECRET is not set; Stripe shows it (whsec_…) where the"
            " endpoint was made, `stripe listen` of Stripe's own command line prints one"
        )
    return WebhookBounds(secrets, settings.webhook_tolerance_s, settings.webhook_waiting_requests)


def _exporter(store: "Engine", keys_file: Path | None) -> Callable[[str], None]:
    """Tells the doors that a tenant's access changed; they look every second at most."""
    from threading import Lock

    from inference.key_export import export_keys
    from schemas.clock import SystemClock

    turn = Lock()

    def on_access(_tenant: str) -> None:
        if keys_file is not None:
            with turn:
                export_keys(store, keys_file, SystemClock())

    return on_access


def _dun_once(
    store: "Engine",
    gateway: "StripeGateway",
    settings: "BillingSettings",
    on_access: Callable[[str], None],
) -> "DunningResult":
    from billing.dunning_run import Dunning, schedule_of
    from schemas.clock import SystemClock

    return Dunning(store, gateway, SystemClock(), schedule_of(settings)).run(on_access)


def _dun_often(
    store: "Engine",
    gateway: "StripeGateway",
    settings: "BillingSettings",
    on_access: Callable[[str], None],
    stop: "threading.Event",
    console: "Console",
) -> None:
    from sqlalchemy.exc import DBAPIError

    from schemas.errors import StripeCallError

    while True:
        try:
            _say(_dun_once(store, gateway, settings, on_access), console)
            # Again, in case it died between a change of access and telling the doors.
            on_access("")
        except (DBAPIError, StripeCallError) as error:
            console.print(f"dunning: {error}; again in {settings.dunning_check_s} s", markup=False)
        if stop.wait(settings.dunning_check_s):
            return


def _say(result: "DunningResult", console: "Console") -> None:
    said = (("reminded", result.reminded), ("suspended", result.suspended))
    for what, names in (*said, ("served again", result.restored)):
        if names:
            console.print(f"{what}: {', '.join(names)}", markup=False, soft_wrap=True)
    for invoice_id, reason in result.failed.items():
        console.print(f"not done: {invoice_id}: {reason}", markup=False, soft_wrap=True)
