"""What the commands about trust share: ledger and store, who decides, what was closed again."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from infra.clickhouse.client import Client
    from infra.store.decisions import Decider
    from streams.close import HourVerdict

ByOption = Annotated[
    str | None, typer.Option("--by", help="Who decides; else RENTROLL_BILLING_OPERATOR.")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept for good.")]


@contextmanager
def ledger_and_store() -> Iterator[tuple["Client", "Engine"]]:
    """Both, as the settings or the local stack name them."""
    from rentroll.opened import endpoints_now, ledger_opened, store_opened

    endpoints = endpoints_now()
    with ledger_opened(endpoints) as client, store_opened(endpoints) as store:
        yield client, store


def decider(by: str | None, reason: str) -> "Decider":
    """Whoever runs the command, now.

    Raises:
        ContractError: If the reason is empty: a decision without one helps nobody.
    """
    from billing.settings import BillingSettings
    from infra.store.decisions import Decider
    from schemas.clock import SystemClock
    from schemas.errors import ContractError
    from schemas.units import NS_PER_MS

    if not reason.strip():
        raise ContractError("--reason: say why; it is kept for good")
    return Decider(
        by or BillingSettings().operator, reason.strip(), SystemClock().now_ns() // NS_PER_MS
    )


def reclose_and_tell(client: "Client", store: "Engine", hours: Collection[int]) -> None:
    """Close those of the hours again that were decided before, and say what became of them."""
    from rich.console import Console

    from schemas.clock import SystemClock
    from streams.reclose import reclose

    console = Console(highlight=False)
    with console.status("closing the hours again that this touches"):
        verdicts = reclose(client, store, hours, clock=SystemClock())
    console.print(told(verdicts), soft_wrap=True, markup=False)


def told(verdicts: Sequence["HourVerdict"]) -> str:
    """What closing again changed, in one line, and in one more per held hour, up to a few."""
    if not verdicts:
        return "no hour that this touches was closed before"
    held = [one for one in verdicts if one.state == "held"]
    changed = sum(one.changed for one in verdicts)
    lines = [f"closed again: {len(verdicts)} hours, {changed} with a new run, {len(held)} held"]
    lines += [f"  {hour_text(one.hour_ms)} held: {one.reason}" for one in held[:5]]
    return "\n".join(lines)


def hour_text(hour_ms: int) -> str:
    """An hour as commands take it: 2026-10-01T00."""
    from schemas.ids import format_ms

    return format_ms(hour_ms)[:13]


def time_text(unix_ms: int) -> str:
    """An instant for people, to the second; a dash where there is none."""
    from schemas.ids import format_ms

    return f"{format_ms(unix_ms)[:19]}Z" if unix_ms else "-"
