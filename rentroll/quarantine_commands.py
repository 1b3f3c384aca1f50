"""`rentroll quarantine`: events with different contents under one id, and what is true of them."""

from typing import TYPE_CHECKING, Annotated

import typer

from rentroll.trust_rim import (
    ByOption,
    ReasonOption,
    decider,
    ledger_and_store,
    reclose_and_tell,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from infra.clickhouse.client import Client
    from streams.rollup_sql import HourRange

quarantine = typer.Typer(
    name="quarantine",
    no_args_is_help=True,
    help="Events with different contents under one id: not billed until somebody decides.",
)
PeriodOption = Annotated[
    str | None, typer.Option("--period", metavar="YYYY-MM", help="Look at this month, UTC.")
]
HourOption = Annotated[
    str | None, typer.Option("--hour", metavar="YYYY-MM-DDTHH", help="Look at this hour, UTC.")
]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")]
EventArgument = Annotated[str, typer.Argument(metavar="EVENT", help="The event's id.")]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.add_typer(quarantine)


@quarantine.command(name="list")
def list_(
    period: PeriodOption = None,
    hour: HourOption = None,
    *,
    settled: Annotated[
        bool, typer.Option("--settled", help="Also those that somebody decided about.")
    ] = False,
    limit: LimitOption = 1_000,
) -> None:
    """Show events that are there with different contents; without hours, those of the last close.

    Example: [bold]rentroll quarantine list --period 2026-10[/]
    """
    from rich.console import Console

    from rentroll.quarantine_views import events_table
    from streams.quarantine import quarantined_events

    console = Console(highlight=False)
    with ledger_and_store() as (client, store):
        hours = _hours(client, period, hour)
        if hours is None:
            console.print("nothing is quarantined in the hours that were closed")
            return
        with console.status("reading the ledger"):
            found = quarantined_events(client, store, hours, limit=limit, settled=settled)
    console.print(events_table(found) if found else "nothing is quarantined there")


@quarantine.command()
def show(event: EventArgument) -> None:
    """Show every content of an event, who signed it, and in which fields they differ.

    Example: [bold]rentroll quarantine show 019a0000-0000-7000-8000-000000000001[/]
    """
    from rich.console import Console

    from infra.store.decisions import decisions_after
    from rentroll.quarantine_views import contents_table, decisions_table, differences_table
    from streams.completeness_decisions import SETTLE_CONFLICT
    from streams.dead_letter_book import of_event
    from streams.quarantine import differences, event_contents

    console = Console(highlight=False)
    with ledger_and_store() as (client, store):
        found = event_contents(client, store, event)
        differing = differences(client, event)
        refused = of_event(client, store, found.event_id)
        decided = [
            one
            for one in decisions_after(store, 0)
            if one.kind == SETTLE_CONFLICT and one.about("event_id") == found.event_id
        ]
    console.print(contents_table(found))
    console.print(differences_table(differing, found))
    for letter in refused:
        console.print(
            f"refused under the same id: {letter.place}, {letter.reason}: {letter.detail}",
            soft_wrap=True,
            markup=False,
        )
    if decided:
        console.print(decisions_table(decided))


@quarantine.command()
def resolve(  # noqa: PLR0913 - one option per way to decide
    event: Annotated[
        str | None, typer.Argument(metavar="[EVENT]", help="The event's id; or give --signed.")
    ] = None,
    *,
    keep: Annotated[
        str | None, typer.Option("--keep", metavar="HASH", help="Its true content (a prefix).")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="None of its contents is billed.")] = False,
    signed: Annotated[
        bool,
        typer.Option("--signed", help="Of each event in the hours, the one content signed."),
    ] = False,
    period: PeriodOption = None,
    hour: HourOption = None,
    reason: ReasonOption,
    by: ByOption = None,
) -> None:
    """Decide which content of an event is the true one, or none, and close its hour again.

    The decision is appended, never changed; a later one about the same event counts instead.
    A content that no registered source signed cannot be kept.

    Example: [bold]rentroll quarantine resolve 019a…0001 --keep 4f2a --reason "tampered copy"[/]

    Example: [bold]rentroll quarantine resolve --signed --period 2026-10 --reason "ticket 12"[/]
    """
    from rich.console import Console

    from streams.quarantine import event_contents, settle

    if (event is None) != signed or (event is not None and (keep is None) != none):
        raise typer.BadParameter("give EVENT with --keep HASH or --none, or --signed without EVENT")
    who, console = decider(by, reason), Console(highlight=False)
    with ledger_and_store() as (client, store):
        if event is None:
            settlements, hours = _by_signature(client, store, period, hour)
        else:
            found = event_contents(client, store, event)
            kept = "" if keep is None else found.content(keep).content_hash
            settlements, hours = {found.event_id: kept}, {found.hour_ms}
        for decision in settle(store, settlements, who):
            console.print(
                f"decision {decision.position}: {decision.subject}", soft_wrap=True, markup=False
            )
        reclose_and_tell(client, store, hours)


def _by_signature(
    client: "Client", store: "Engine", period: str | None, hour: str | None
) -> tuple[dict[str, str], set[int]]:
    from schemas.errors import ContractError
    from streams.quarantine import quarantined_events, settled_by_signature
    from streams.settings import StreamSettings

    hours = _hours(client, period, hour)
    if hours is None:
        return {}, set()
    limit = StreamSettings().close_max_quarantined_events
    found = quarantined_events(client, store, hours, limit=limit)
    settlements = settled_by_signature(found)
    left = [one.event_id for one in found if one.event_id not in settlements]
    if left and not settlements:
        raise ContractError(f"none of {len(left)} events has one signed content, such as {left[0]}")
    return settlements, {one.hour_ms for one in found if one.event_id in settlements}


def _hours(client: "Client", period: str | None, hour: str | None) -> "HourRange | None":
    from schemas.periods import parse_hour, parse_period
    from streams.close import hour_range
    from streams.hour_findings import quarantined_hours

    if period is not None and hour is not None:
        raise typer.BadParameter("give --period or --hour, not both")
    if period is not None:
        return hour_range(parse_period(period))
    return hour_range(parse_hour(hour)) if hour is not None else quarantined_hours(client)
