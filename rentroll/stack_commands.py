"""The commands of the local stack: up, down, status, doctor, logs."""

import signal
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    for command, example in (
        (up, "rentroll up --detach"),
        (down, "rentroll down"),
        (status, "rentroll status"),
        (doctor, "rentroll doctor"),
        (logs, "rentroll logs kafka --follow"),
    ):
        app.command(epilog=f"Example: [bold]{example}[/]")(command)


def up(
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it is ready; `down` stops it.")
    ] = False,
) -> None:
    """Start Kafka, ClickHouse, the billing store and a stand-in for Stripe.

    A server whose URL is given (RENTROLL_KAFKA_BOOTSTRAP, RENTROLL_CLICKHOUSE_URL,
    RENTROLL_STORE_URL, RENTROLL_STRIPE_API_KEY) is used as it is. Without --detach the stack runs
    until Ctrl-C. Data and logs stay in .rentroll/, or where RENTROLL_HOME says.
    """
    from rich.console import Console

    from infra.settings import InfraSettings
    from infra.stack.control import StartedStack, start
    from infra.stack.state import read_state
    from rentroll.stack_views import StackProgress, show_endpoints

    settings, console = InfraSettings(), Console()
    # From a service manager the end comes as SIGTERM; it means what Ctrl-C means.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stack: StartedStack | None = None
    try:
        with StackProgress(console) as progress:
            stack = start(settings, detach=detach, on_progress=progress.show)
        if stack is None:
            console.print(f"a stack already runs in {settings.home}; see `rentroll status`")
            return
        show_endpoints(console, read_state(settings.home))
        if detach:
            console.print("runs in the background; `rentroll down` stops it")
            return
        console.print("running; Ctrl-C stops it")
        raise typer.Exit(stack.wait_until_ended())
    except KeyboardInterrupt:
        if stack is not None:
            with console.status("stopping"):
                stack.stop()
        console.print("stopped; the data stays")


def down() -> None:
    """Stop the stack of this folder, and clear what a killed one left. Data stays."""
    from rich.console import Console

    from infra.settings import InfraSettings
    from infra.stack import control

    settings, console = InfraSettings(), Console()
    with console.status("stopping"):
        stopped = control.down(settings)
    console.print("stopped; the data stays" if stopped else f"no stack runs in {settings.home}")


def status() -> None:
    """Show each server: how it is provided, where it answers, whether it does.

    Exit status 1 if anything is down.
    """
    from rich.console import Console

    from infra.settings import InfraSettings
    from infra.stack.status import stack_status
    from rentroll.stack_views import status_table

    settings, console = InfraSettings(), Console()
    found = stack_status(settings)
    if found.members:
        console.print(status_table(found))
    else:
        console.print(f"no stack ever ran in {settings.home}; start one with `rentroll up`")
    raise typer.Exit(0 if found.healthy else 1)


def doctor() -> None:
    """Check whether this machine can run the stack and serve a model; say how to mend what cannot.

    Exit status 1 if something cannot. Without a vLLM the checks that need one are left out.
    """
    from itertools import chain

    from rich.console import Console

    from inference.serve_doctor import examine_serving
    from inference.settings import InferenceSettings
    from infra.settings import InfraSettings
    from infra.stack.doctor import examine, examine_rights
    from rentroll.kafka_commands import known_roles
    from rentroll.stack_views import show_checks
    from schemas.clock import SystemClock

    infra, console = InfraSettings(), Console()
    serving = examine_serving(InferenceSettings(), SystemClock())
    checks = chain(examine(infra), examine_rights(infra, known_roles()), serving)
    with console.status("looking; a vLLM takes a while to say what it is"):
        healthy = show_checks(console, checks)
    raise typer.Exit(0 if healthy else 1)


def logs(
    member: Annotated[
        str | None,
        typer.Argument(help="kafka, clickhouse, store, stripe or keeper; all if left out."),
    ] = None,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Last lines per file.")] = 20,
) -> None:
    """Show what the servers of the stack wrote."""
    from rich.console import Console

    from infra.settings import InfraSettings
    from infra.stack import logs as stack_logs
    from rentroll.stack_views import show_lines

    settings, console = InfraSettings(), Console()
    show_lines(console, stack_logs.recent(settings, member, lines))
    if follow:
        try:
            show_lines(console, stack_logs.follow(settings, member))
        except KeyboardInterrupt:
            return
