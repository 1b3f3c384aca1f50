"""`rentroll sources`: keys that vouch for events, registered, rotated and revoked."""

from typing import TYPE_CHECKING, Annotated

import typer

from rentroll.trust_rim import (
    ByOption,
    ReasonOption,
    decider,
    ledger_and_store,
    reclose_and_tell,
    time_text,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from infra.clickhouse.client import Client
    from infra.store.decisions import Decider

sources = typer.Typer(
    name="sources", no_args_is_help=True, help="Sources of events, and whose signature counts."
)
SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="The source's id.")]
KeyOption = Annotated[
    str, typer.Option("--public-key", metavar="HEX", help="Ed25519, 64 hex digits.")
]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.add_typer(sources)


@sources.command(name="list")
def list_() -> None:
    """Show every source that was ever registered, and how its key stands.

    Example: [bold]rentroll sources list[/]
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from infra.store.sources import source_histories

    with ledger_and_store() as (_, store):
        found = source_histories(store)
    if not found:
        Console().print("no sources; a sidecar registers its own when it starts")
        return
    table = Table()
    for heading in ("Source", "Host", "Registered", "By", "Key", "Trusted", "State"):
        table.add_column(heading, overflow="fold")
    for one in found:
        trusted = one.keys.trusted()
        until = one.keys.trusted_through
        table.add_row(
            one.registered.source,
            Text(one.registered.host),
            time_text(one.registered.registered_at_ms),
            Text(one.registered.registered_by),
            f"{one.keys.terms[-1].public_key[:12]}…",
            f"through {until}" if until is not None else f"{len(trusted)} keys, all",
            one.keys.state,
            style="" if one.keys.state == "trusted" else "red",
        )
    Console().print(table)


@sources.command()
def show(source: SourceArgument) -> None:
    """Show a source: its keys, what each vouches for, its history, how far it is proven.

    Example: [bold]rentroll sources show 5e0b7c1a-0000-8000-8000-000000000001[/]
    """
    from rich.console import Console
    from rich.table import Table

    from infra.store.sources import source_history
    from rentroll.quarantine_views import decisions_table
    from streams.source_trust import proven_through, source_reach, source_state

    console = Console(highlight=False)
    with ledger_and_store() as (client, store):
        history = source_history(store, source)
        with console.status("proving its ranges"):
            state, reach = source_state(client, store, source), source_reach(client, source)
    one = history.registered
    why = f", {one.reason}" if one.reason else ""
    console.print(
        f"source {source} on {one.host}: {history.keys.state}; registered"
        f" {time_text(one.registered_at_ms)} by {one.registered_by}{why}\n"
        f"{reach.events:,} events in the ledger, {time_text(reach.first_ms)} to"
        f" {time_text(reach.last_ms)}; proven through sequence {proven_through(state)}",
        soft_wrap=True,
        markup=False,
    )
    table = Table(title="Keys", title_justify="left")
    for heading in ("Public key", "From sequence", "Through"):
        table.add_column(heading, overflow="fold")
    for term in history.keys.trusted():
        table.add_row(term.public_key, str(term.first), str(term.last))
    console.print(table)
    if history.decisions:
        console.print(decisions_table(history.decisions))
    for problem in state.problems if state else ():
        console.print(problem.text, style="red", soft_wrap=True, markup=False)


@sources.command(name="register")
def register_(
    source: SourceArgument,
    *,
    host: Annotated[str, typer.Option("--host", help="Where it runs.")],
    public_key: KeyOption,
    reason: ReasonOption,
    by: ByOption = None,
) -> None:
    """Register a source that cannot register itself; the same again changes nothing.

    Example: [bold]rentroll sources register 5e0b… --host gpu-7 --public-key 3a… --reason new[/]
    """
    from rich.console import Console

    from infra.store.sources import register_source

    who = decider(by, reason)
    with ledger_and_store() as (_, store):
        register_source(
            store,
            source=_source(source),
            host=_host(host),
            public_key=_key(public_key),
            registered_by=who.decided_by,
            now_ms=who.now_ms,
            reason=who.reason,
        )
    Console(highlight=False).print(f"source {source} is registered", markup=False)


@sources.command()
def rotate(
    source: SourceArgument,
    *,
    public_key: KeyOption,
    from_sequence: Annotated[
        int | None,
        typer.Option(
            "--from-sequence", min=2, help="Where the new key begins; else after what is proven."
        ),
    ] = None,
    reason: ReasonOption,
    by: ByOption = None,
) -> None:
    """Let another key vouch for a source from a sequence on; the old one counts below it.

    A range is signed by one key: where the old one signed across that sequence, its range is held.

    Example: [bold]rentroll sources rotate 5e0b… --public-key 9c… --reason "yearly"[/]
    """
    from rich.console import Console

    from infra.store.sources import rotate_key
    from streams.source_trust import proven_through, source_reach, source_state

    who = decider(by, reason)
    with ledger_and_store() as (client, store):
        first = from_sequence
        if first is None:
            first = max(proven_through(source_state(client, store, source)) + 1, 2)
        position = rotate_key(
            store, source, public_key=_key(public_key), from_sequence=first, decider=who
        )
        Console(highlight=False).print(
            f"decision {position}: from sequence {first} on the new key vouches", markup=False
        )
        reclose_and_tell(client, store, source_reach(client, source).hours())


@sources.command()
def revoke(
    source: SourceArgument,
    *,
    trusted_through: Annotated[
        int | None,
        typer.Option(
            "--trusted-through",
            min=0,
            metavar="SEQUENCE",
            help="What still counts (0: nothing); else what is proven by now.",
        ),
    ] = None,
    compromised: Annotated[
        bool,
        typer.Option("--compromised", help="Nobody knows yet what is true: hold its hours."),
    ] = False,
    suspected_from: Annotated[
        int, typer.Option("--from-sequence", min=1, help="With --compromised: from where on.")
    ] = 1,
    reason: ReasonOption,
    by: ByOption = None,
) -> None:
    """Revoke a source's key: nothing it signed beyond a sequence counts, and nothing is awaited.

    Hours that were closed with its events are closed again at once: with what still counts, or,
    for a compromised key, reopened as held until --trusted-through says what counts.

    Example: [bold]rentroll sources revoke 5e0b… --compromised --reason "laptop stolen"[/]

    Example: [bold]rentroll sources revoke 5e0b… --trusted-through 812 --reason "seen in logs"[/]
    """
    if compromised and trusted_through is not None:
        raise typer.BadParameter("give --compromised or --trusted-through, not both")
    from infra.store.sources import suspect_key
    from streams.source_trust import source_reach

    who = decider(by, reason)
    with ledger_and_store() as (client, store):
        if compromised:
            position = suspect_key(store, source, suspected_from=suspected_from, decider=who)
            said = f"compromised from sequence {suspected_from} on: its hours are held"
        else:
            position, said = _revoke(client, store, source, trusted_through, who)
        from rich.console import Console

        Console(highlight=False).print(f"decision {position}: {said}", markup=False)
        reclose_and_tell(client, store, source_reach(client, source).hours())


def _revoke(
    client: "Client", store: "Engine", source: str, through: int | None, who: "Decider"
) -> tuple[int, str]:
    from infra.store.sources import revoke_key, source_history
    from schemas.errors import ContractError
    from streams.source_trust import proven_through, source_state

    if through is None:
        if source_history(store, source).keys.state == "compromised":
            raise ContractError(
                f"source {source}: its key is compromised, so what is proven by it is worth"
                " nothing: say --trusted-through SEQUENCE, 0 for nothing"
            )
        through = proven_through(source_state(client, store, source))
    position = revoke_key(store, source, trusted_through=through, decider=who)
    return position, f"what it signed through sequence {through} counts, nothing beyond"


def _source(text: str) -> str:
    return _refused_unless(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text, "a source is a UUID")


def _key(text: str) -> str:
    return _refused_unless(r"[0-9a-f]{64}", text.lower(), "a public key has 64 hex digits")


def _host(text: str) -> str:
    from schemas.fields import NAME_PATTERN

    return _refused_unless(NAME_PATTERN, text, "a host is a name without spaces")


def _refused_unless(pattern: str, text: str, rule: str) -> str:
    import re

    from schemas.errors import ContractError

    if not re.fullmatch(pattern, text):
        raise ContractError(f"{rule}: {text!r}")
    return text
