"""`rentroll completeness`: what is proven of hours, what is missing, and the recorded exit."""

from typing import Annotated

import typer

from rentroll.close_commands import HourOption, PeriodOption, ledger_and_store, wanted_hours

completeness = typer.Typer(
    name="completeness",
    invoke_without_command=True,
)


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.add_typer(completeness)


@completeness.callback()
def show(context: typer.Context, period: PeriodOption = None, hour: HourOption = None) -> None:
    """Show of every source what is proven, what is missing, and how to fill it.

    Sequences, holes, signed ranges, GPU time lines, wrong clocks, and why an hour may not close.
    Looks only: nothing is decided or published.

    Example: [bold]rentroll completeness --period 2026-10[/]
    """
    if context.invoked_subcommand is not None:
        return
    wanted = wanted_hours(period, hour)
    from rich.console import Console

    from rentroll.close_views import engines_table, problems_text, sources_table
    from rentroll.completeness_views import findings_text, hours_table
    from schemas.clock import SystemClock
    from streams.completeness_look import look_at

    console = Console()
    with ledger_and_store() as (client, store), console.status("reading the ledger"):
        look = look_at(client, store, wanted, clock=SystemClock())
    console.print(sources_table(look.sources, wanted))
    console.print(engines_table(look.sources))
    if look.waiting:
        console.print(hours_table(look, wanted))
    for text in (problems_text(look.sources), findings_text(look)):
        if text is not None:
            console.print(text, soft_wrap=True)


@completeness.command(name="declare-loss")
def declare_loss(  # noqa: PLR0913 - what, who and why
    source: Annotated[str, typer.Option("--source", help="As `rentroll completeness` shows it.")],
    *,
    first: Annotated[
        int | None, typer.Option("--first", min=1, help="The first sequence that is lost.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--last", min=1, help="The last one; else the same as --first.")
    ] = None,
    gone: Annotated[
        bool, typer.Option("--gone", help="The source died for good: all it has not sent is lost.")
    ] = False,
    period: PeriodOption = None,
    hour: HourOption = None,
    who: Annotated[str, typer.Option("--who", help="Who declares it; it is kept.")],
    why: Annotated[str, typer.Option("--why", help="Why; it is kept.")],
) -> None:
    """Declare events lost for good, so that their hours may close without them.

    Kept for ever, and shown wherever these hours are proven. Only what is missing can be declared
    lost; what arrives after all is still proven and billed. Looks at the current month unless
    --period or --hour say otherwise.

    Example: [bold]rentroll completeness declare-loss --source 0b3c… --gone --who ann
    --why "host-1 burnt"[/]
    """
    from rich.console import Console

    from schemas.clock import SystemClock, utc
    from schemas.periods import period_of
    from streams.declare_loss import Loss
    from streams.declare_loss import declare_loss as declare

    if gone == (first is not None or last is not None):
        raise typer.BadParameter("give either --gone or --first (and --last)")
    clock = SystemClock()
    now_hours = period_of(utc(clock.now_ns()))
    wanted = wanted_hours(period, hour) if period or hour else now_hours
    loss = Loss(source, first, None if gone else last or first, who, why)
    with ledger_and_store() as (client, store):
        found = declare(client, store, wanted, loss, clock=clock)
    until = "on" if gone else f"to {found.last}"
    Console(highlight=False).print(
        f"declared lost, by {who}: source {found.source} from sequence {found.first} {until}"
        f" (decision {found.position}); close its hours again",
        soft_wrap=True,
        markup=False,
    )
