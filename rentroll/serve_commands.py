"""`rentroll serve-model` and `rentroll calibrate`: vLLM, metered and billed, and measured."""

import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from inference.calibration import CalibrationProfile
    from inference.serve_supervisor import ServePlan, StoppedServing, Supervisor
    from inference.settings import InferenceSettings


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    passing_on = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(name="serve-model", context_settings=passing_on)(serve_model)
    app.command(name="calibrate", context_settings=passing_on)(calibrate)


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
    settings = InferenceSettings()
    plan = plan_serving(model, context.args, settings, InfraSettings(), {})
    _calibrate_first(console, model, context.args, settings)

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


def calibrate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A folder or a name, as `vllm serve` takes it.")],
    out: Annotated[Path, typer.Option(help="The profile that is written.")] = Path(
        "calibration.json"
    ),
) -> None:
    """Measure what an engine's steps cost here, for attribution by `calibrated`.

    Give the options of `vllm serve` that the model will be served with, on a machine that does
    nothing else. Engines use the profile with RENTROLL_INFERENCE_ATTRIBUTION=calibrated and
    RENTROLL_INFERENCE_CALIBRATION_FILE. `rentroll serve-model` measures by itself where that file
    is not there yet.

    Example: [bold]rentroll calibrate Qwen/Qwen2.5-0.5B-Instruct --out qwen.json[/]
    """
    from rich.console import Console

    from inference.settings import InferenceSettings

    _calibrate(
        Console(highlight=False, soft_wrap=True), model, context.args, out, InferenceSettings()
    )


def _calibrate_first(
    console: "Console", model: str, options: list[str], settings: "InferenceSettings"
) -> None:
    """Where the settings want a profile that is not there yet."""
    path = settings.calibration_file
    if settings.attribution == "calibrated" and path is not None and not path.exists():
        _calibrate(console, model, options, path, settings)


def _calibrate(
    console: "Console", model: str, options: list[str], out: Path, settings: "InferenceSettings"
) -> None:
    from inference.calibrate import calibrate_engine

    with console.status("the engine starts") as status:
        profile = calibrate_engine(
            model, options, out, settings=settings, say=lambda text: status.update(f"timing {text}")
        )
    _show_profile(console, profile, out)


def _show_profile(console: "Console", profile: "CalibrationProfile", out: Path) -> None:
    where = f"{profile.model} on {profile.gpus} x {profile.gpu_type}"
    fit = f"{profile.steps} steps, median error {profile.median_error_ppm // 10_000}%"
    console.print(f"{out}: {where}, {fit}", markup=False)
    for name, cost_fs in (
        ("a pass", profile.pass_fs),
        ("a request in it", profile.request_fs),
        ("a token", profile.token_fs),
        ("1,000 tokens of context read", 1_000 * profile.read_fs),
        ("1,000 tokens of context attended to", 1_000 * profile.pair_fs),
    ):
        console.print(f"  {name:36}{cost_fs // 10**6:14,} ns", markup=False)


def _serve(console: "Console", supervisor: "Supervisor", plan: "ServePlan") -> int:
    """Exit status: 0 if it was stopped, and everything is published and closed."""
    from schemas.errors import StoppedEarlyError

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
