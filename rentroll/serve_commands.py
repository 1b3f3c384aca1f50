"""`rentroll serve-model`: vLLM, metered and billed, by one command."""

import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from inference.serve_supervisor import ServePlan, StoppedServing, Supervisor


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(
        name="serve-model",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(serve_model)


def serve_model(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder or a name, as `vllm serve` takes it.")],
) -> None:
    """Serve a model with vLLM, metered and billed; every option of `vllm serve` can follow.

    It listens on a free port of 127.0.0.1 unless --host and --port say otherwise. Ctrl-C lets what
    runs finish, publishes everything, and closes the source; a second one cuts requests short, a
    third one leaves publishing to the next start.

    Example: [bold]rentroll serve-model Qwen/Qwen2.5-0.5B-Instruct --max-model-len 4096[/]
    """
    from rich.console import Console

    from inference.serve import plan_serving
    from inference.serve_supervisor import Supervisor
    from inference.settings import InferenceSettings
    from infra.settings import InfraSettings

    console = Console(highlight=False, soft_wrap=True)
    plan = plan_serving(model, context.args, InferenceSettings(), InfraSettings(), {})

    def say(text: str) -> None:
        # A terminal that was closed must not keep us from ending in order.
        with suppress(OSError):
            console.print(text, markup=False)

    supervisor = Supervisor(plan, say)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # `nohup`, and shells for their background jobs, ask for these not to be heard.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: supervisor.ask_to_stop())
    raise typer.Exit(_serve(console, supervisor, plan))


def _serve(console: "Console", supervisor: "Supervisor", plan: "ServePlan") -> int:
    """Exit status: 0 if it was stopped, and everything is published and closed."""
    from inference.serve_supervisor import StoppedEarlyError

    early = False
    try:
        with console.status("vLLM starts; a large model takes minutes"):
            supervisor.start()
        _show_ready(console, plan)
        supervisor.watch()
    except StoppedEarlyError:
        early = True
    finally:
        stopped = supervisor.stop()
    with suppress(OSError):
        _show_end(console, stopped)
    complete = (stopped.closed and not stopped.unpublished) or early
    return 0 if complete and not stopped.failure else 1


def _show_ready(console: "Console", plan: "ServePlan") -> None:
    serve = plan.serve
    for line in (
        f"ready: {serve.base_url}/v1 serves {serve.model}; Ctrl-C stops it",
        "  a key:  rentroll keys create --tenant acme --project chatbot",
        f"  a call: {serve.curl}",
    ):
        console.print(line, markup=False)


def _show_end(console: "Console", stopped: "StoppedServing") -> None:
    if stopped.failure:
        console.print("[bold red]error[/] ", end="")
        console.print(stopped.failure, markup=False)
    state = "closed" if stopped.closed else "still open: the next start goes on with it"
    console.print(
        f"source {stopped.source or '-'} is {state}; {stopped.events} events,"
        f" {stopped.unpublished} still to be published",
        markup=False,
    )
