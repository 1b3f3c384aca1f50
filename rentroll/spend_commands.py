"""`rentroll live`, `spend` and `budgets`: running spend, what tenants may spend, their alerts."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from schemas.budgets import Budget, BudgetKind

spend = typer.Typer(name="spend", no_args_is_help=True, help="What tenants are spending now.")
budgets = typer.Typer(name="budgets", no_args_is_help=True, help="What tenants may spend.")


class By(StrEnum):
    """What a line of `spend show` is about."""

    tenant = "tenant"
    project = "project"
    key = "key"


TenantArgument = Annotated[str, typer.Argument(help="The tenant.")]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(epilog="Example: rentroll live --until-idle 2")(live)
    app.add_typer(spend)
    app.add_typer(budgets)


def live(
    until_idle: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="SECONDS", help="Stop when nothing has come for so long."),
    ] = None,
    *,
    correct: Annotated[
        bool, typer.Option(help="Correct hours by what hour close publishes; needs ClickHouse.")
    ] = True,
) -> None:
    """Keep running usage and estimated spend, raise alerts about budgets, until stopped."""
    from functools import partial

    from infra.clickhouse.client import connect
    from infra.clickhouse.migrate import migrate
    from infra.endpoints import resolve
    from infra.kafka.topics import ensure_topics
    from infra.settings import InfraSettings
    from infra.store.engine import open_store
    from infra.store.migrate import upgrade
    from schemas.clock import SystemClock
    from streams.live_app import LiveServers, LiveWorker
    from streams.settings import StreamSettings
    from streams.telemetry import log_as_json

    log_as_json()
    infra = InfraSettings()
    endpoints = resolve(infra)
    ensure_topics(endpoints.kafka_bootstrap)
    upgrade(endpoints.store_url)
    ledger = None
    if correct:
        migrate(endpoints.clickhouse_url, endpoints.clickhouse_database)
        ledger = partial(connect, endpoints.clickhouse_url, endpoints.clickhouse_database)
    servers = LiveServers(endpoints.kafka_bootstrap, open_store(endpoints.store_url), ledger)
    folder, clock = infra.home / "live", SystemClock()
    LiveWorker(StreamSettings(), servers, folder=folder, clock=clock).run(until_idle_s=until_idle)


@spend.command()
def show(
    tenant: TenantArgument,
    *,
    by: Annotated[By, typer.Option("--by", help="One line per what.")] = By.key,
    at: Annotated[
        datetime | None,
        typer.Option("--at", formats=["%Y-%m-%dT%H:%M"], help="As of then, UTC; else now."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show a tenant's usage and estimated spend in this minute, this hour and this month.

    Example: [bold]rentroll spend show acme --by project[/]
    """
    from datetime import UTC

    from rich.console import Console

    from infra.store.price_books import newest_book
    from rentroll.spend_views import spend_json, spend_table
    from schemas.units import MS_PER_S
    from streams.live_reading import read_spend

    now_ms = _now_ms() if at is None else int(at.replace(tzinfo=UTC).timestamp()) * MS_PER_S
    with _store() as store:
        book = newest_book(store)
        lines = read_spend(store, tenant, now_ms, by=by.value)
    currency = "" if book is None else book.currency
    if as_json:
        typer.echo(spend_json(tenant, lines, currency))
        return
    Console().print(spend_table(tenant, lines, currency))


@budgets.command(name="set")
def set_(
    tenant: TenantArgument,
    *,
    monthly: Annotated[
        str | None, typer.Option("--monthly", metavar="AMOUNT", help="Limit per calendar month.")
    ] = None,
    prepaid: Annotated[
        str | None, typer.Option("--prepaid", metavar="AMOUNT", help="Credit, from now on.")
    ] = None,
    alert_at: Annotated[
        list[int] | None,
        typer.Option("--alert-at", metavar="PERCENT", help="Else 50, 80 and 100. Repeat."),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option("--webhook", metavar="URL", help="Where alerts are sent.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Who does it; else RENTROLL_BILLING_OPERATOR.")
    ] = None,
) -> None:
    """Set or replace a tenant's monthly budget or prepaid credit, in the price book's currency.

    Example: [bold]rentroll budgets set acme --monthly 500 --webhook https://example.com/hook[/]
    """
    from rich.console import Console

    from billing.settings import BillingSettings
    from infra.store.budgets import set_budget
    from infra.store.price_books import newest_book
    from rentroll.spend_views import budget_text
    from schemas.budgets import DEFAULT_THRESHOLDS, Budget
    from schemas.errors import ContractError
    from schemas.estimates import parse_amount_e9

    if (monthly is None) == (prepaid is None):
        raise ContractError("say either --monthly AMOUNT or --prepaid AMOUNT")
    with _store() as store:
        book = newest_book(store)
        if book is None:
            raise ContractError("no price book is imported: a budget needs its currency")
        kept = set_budget(
            store,
            Budget(
                tenant=tenant,
                kind="monthly" if monthly is not None else "prepaid",
                currency=book.currency,
                limit_e9=parse_amount_e9(monthly or prepaid or ""),
                thresholds=tuple(alert_at or DEFAULT_THRESHOLDS),
                webhook_url=webhook,
                set_by=by or BillingSettings().operator,
                set_at_ms=_now_ms(),
            ),
        )
    console = Console(highlight=False)
    console.print(budget_text(kept), soft_wrap=True, markup=False)
    if kept.webhook_url is not None:
        console.print(_webhook_text(kept), soft_wrap=True, markup=False)


@budgets.command(name="list")
def list_() -> None:
    """Show all budgets, and what is spent and held of each.

    Example: [bold]rentroll budgets list[/]
    """
    from rich.console import Console

    from billing.reserving import read_standings
    from infra.store.budgets import budgets_of
    from rentroll.spend_views import budgets_table
    from schemas.spend import month_start_ms

    month_ms = month_start_ms(_now_ms())
    with _store() as store, store.connect() as connection:
        found = budgets_of(connection)
        standings = read_standings(connection, {one.tenant for one in found})
    if not found:
        Console().print("no budgets; make one with `rentroll budgets set`")
        return
    Console().print(budgets_table(found, standings, month_ms))


@budgets.command()
def remove(
    tenant: TenantArgument,
    *,
    kind: Annotated[str, typer.Option("--kind", help="monthly or prepaid.")] = "monthly",
) -> None:
    """Remove a budget; from then on it refuses nothing.

    Example: [bold]rentroll budgets remove acme --kind prepaid[/]
    """
    from rich.console import Console

    from infra.store.budgets import remove_budget
    from schemas.errors import ContractError

    if kind not in ("monthly", "prepaid"):
        raise ContractError(f"kind: {kind!r} is neither monthly nor prepaid")
    known: BudgetKind = "monthly" if kind == "monthly" else "prepaid"
    with _store() as store:
        if not remove_budget(store, tenant, known):
            raise ContractError(f"{tenant} has no {kind} budget")
    Console(highlight=False).print(f"{tenant} has no {kind} budget any more", markup=False)


@budgets.command()
def alerts(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's.")] = None,
) -> None:
    """Show which thresholds were reached, and what became of telling it.

    Example: [bold]rentroll budgets alerts --tenant acme[/]
    """
    from rich.console import Console

    from infra.store.budgets import list_alerts
    from rentroll.spend_views import alerts_table

    with _store() as store:
        found = list_alerts(store, tenant)
    Console().print(alerts_table(found))


def _webhook_text(budget: "Budget") -> str:
    from streams.alert_webhooks import receiver_secret
    from streams.settings import StreamSettings

    master = StreamSettings().budget_webhook_secret
    if master is None:
        return "alerts are stored but not sent: RENTROLL_BUDGET_WEBHOOK_SECRET is not set"
    secret = receiver_secret(master.get_secret_value(), budget.webhook_url or "")
    return f"alerts go to {budget.webhook_url}; its receiver checks them with {secret}"


@contextmanager
def _store() -> Iterator["Engine"]:
    """Spend and budgets need the billing store and nothing else."""
    from infra.endpoints import resolve
    from infra.settings import InfraSettings
    from infra.store.engine import open_store

    settings = InfraSettings()
    store = open_store(settings.store_url or resolve(settings).store_url)
    try:
        yield store
    finally:
        store.dispose()


def _now_ms() -> int:
    from schemas.clock import SystemClock
    from schemas.units import NS_PER_MS

    return SystemClock().now_ns() // NS_PER_MS
