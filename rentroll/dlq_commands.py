"""`rentroll dlq`: refused records: see them, send them back to their topic, or discard them."""

from enum import StrEnum
from pathlib import Path
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
    from streams.dead_letter_book import Letter, State

dlq = typer.Typer(
    name="dlq", no_args_is_help=True, help="Refused records, with their exact bytes and the reason."
)


class Which(StrEnum):
    """Dead letters by what was decided about them."""

    open = "open"
    redriven = "redriven"
    discarded = "discarded"
    all = "all"


PlacesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PLACE]...", help="Such as usage.v1/2/123, as `list` shows it."),
]
TopicOption = Annotated[str | None, typer.Option("--topic", help="Only from this topic.")]
RefusedOption = Annotated[
    str | None, typer.Option("--refused-as", metavar="REASON", help="Only with this reason.")
]
SourceOption = Annotated[str | None, typer.Option("--source", help="Only from this source.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")]
AllOption = Annotated[bool, typer.Option("--all", help="Every one that the options let through.")]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.add_typer(dlq)


@dlq.command(name="list")
def list_(
    *,
    state: Annotated[Which, typer.Option("--state", help="Which of them.")] = Which.open,
    topic: TopicOption = None,
    refused_as: RefusedOption = None,
    source: SourceOption = None,
    limit: LimitOption = 100,
) -> None:
    """Show dead letters: where they lay, why they were refused, whose they are.

    Example: [bold]rentroll dlq list --state all --refused-as event.invalid[/]
    """
    from rich.console import Console

    from rentroll.dlq_views import letters_table
    from streams.dead_letter_book import STATES, Wanted, letters

    states = [one for one in STATES if state in (Which.all, one)]
    with ledger_and_store() as (client, store):
        found = letters(
            client, store, Wanted(states, (), topic, refused_as, source=source, limit=limit)
        )
    console = Console(highlight=False)
    console.print(letters_table(found.letters) if found.letters else "no such dead letters")
    if found.more:
        console.print(f"and {found.more:,} more: raise --limit, or narrow it down")


@dlq.command()
def show(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="Such as usage.v1/2/123.")],
    *,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Write its exact bytes there.")
    ] = None,
) -> None:
    """Show one dead letter: its bytes, what was decided, and whether it could go back now.

    Example: [bold]rentroll dlq show usage.v1/2/123 --to record.json[/]
    """
    from rich.console import Console

    from rentroll.dlq_views import letter_text
    from rentroll.quarantine_views import decisions_table
    from streams.dead_letter_book import in_ledger, letter_at, same_content, value_of
    from streams.redrive import why_not

    with ledger_and_store() as (client, store):
        letter = letter_at(client, store, place)
        value = value_of(client, letter)
        copies = same_content(client, letter)
        arrived = letter.content_sha256 in in_ledger(client, [letter])
    console = Console(highlight=False)
    console.print(
        letter_text(letter, value, copies, arrived=arrived, why_not=why_not(letter, value)),
        soft_wrap=True,
    )
    if letter.decision is not None:
        console.print(decisions_table([letter.decision]))
    if to is not None:
        to.write_bytes(value)


@dlq.command()
def redrive(  # noqa: PLR0913 - one option per way to choose
    places: PlacesArgument = None,
    *,
    all_: AllOption = False,
    topic: TopicOption = None,
    refused_as: RefusedOption = None,
    limit: LimitOption = 10_000,
    reason: ReasonOption,
    by: ByOption = None,
) -> None:
    """Send dead letters back to their topics, byte for byte, once what refused them is mended.

    Again sends nothing twice; a redrive that was killed is finished by the next. There is no way
    to change the bytes: their hash is signed, and what nobody signed is never billed.

    Example: [bold]rentroll dlq redrive --all --refused-as event.invalid --reason "fixed in 1.2"[/]
    """
    from rich.console import Console

    from infra.kafka.records import TopicRecords
    from rentroll.dlq_views import redriven_text
    from rentroll.opened import endpoints_now
    from streams.redrive import redrive as send_back

    who, console = decider(by, reason), Console(highlight=False)
    log = TopicRecords(endpoints_now().kafka_bootstrap)
    with ledger_and_store() as (client, store):
        states: tuple[State, ...] = ("open", "redriven")
        chosen = _chosen(client, store, places, (all_, topic, refused_as, limit), states)
        counts: dict[str, int] = {}
        for one in send_back(client, store, log, chosen, who):
            counts[one.outcome] = counts.get(one.outcome, 0) + 1
            console.print(redriven_text(one), soft_wrap=True)
    console.print(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    console.print("`rentroll worker` takes them; then `rentroll close` closes their hours again")
    if counts.get("not sent"):
        raise typer.Exit(1)


@dlq.command()
def discard(  # noqa: PLR0913 - one option per way to choose
    places: PlacesArgument = None,
    *,
    all_: AllOption = False,
    topic: TopicOption = None,
    refused_as: RefusedOption = None,
    limit: LimitOption = 10_000,
    reason: ReasonOption,
    by: ByOption = None,
) -> None:
    """Decide that nobody bills these records, now or later, and close their hours again.

    The letters stay where they are; the decision is appended and names who and why.

    Example: [bold]rentroll dlq discard usage.v1/2/123 --reason "a test against production"[/]
    """
    from rich.console import Console

    from schemas.units import MS_PER_HOUR
    from streams.dead_letter_book import discard as decide

    who, console = decider(by, reason), Console(highlight=False)
    with ledger_and_store() as (client, store):
        chosen = _chosen(
            client, store, places, (all_, topic, refused_as, limit), ("open", "redriven")
        )
        for letter, decision in zip(chosen, decide(store, chosen, who), strict=True):
            console.print(
                f"decision {decision.position}: {letter.place} is discarded", markup=False
            )
        times = [ms for ms in (one.unix_ms() for one in chosen) if ms is not None]
        reclose_and_tell(client, store, {ms // MS_PER_HOUR * MS_PER_HOUR for ms in times})


def _chosen(
    client: "Client",
    store: "Engine",
    places: list[str] | None,
    narrowed: tuple[bool, str | None, str | None, int],
    states: tuple["State", ...],
) -> list["Letter"]:
    """The letters that were asked for: named ones, or all open ones among the others."""
    from schemas.errors import ContractError
    from streams.dead_letter_book import OPEN, Wanted, letters

    all_, topic, refused_as, limit = narrowed
    if bool(places) == all_:
        raise typer.BadParameter("name dead letters, or give --all")
    if not places:
        wanted = Wanted(OPEN, (), topic, refused_as, limit=limit)
        return list(letters(client, store, wanted).letters)
    found = letters(client, store, Wanted(places=places, limit=len(places)))
    known = {one.place: one for one in found.letters}
    for place in places:
        if place not in known:
            raise ContractError(f"there is no dead letter {place}; see `rentroll dlq list`")
        if known[place].state not in states:
            raise ContractError(f"dead letter {place} is {known[place].state} already")
    return [known[place] for place in dict.fromkeys(places)]
