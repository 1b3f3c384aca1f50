"""`rentroll simulate`: real traces or synthetic fleets become metered, signed events."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from rich.console import Console
    from rich.table import Table

    from inference.publisher import PublishedCounts
    from inference.settings import InferenceSettings
    from inference.simulate.emitted import Emitted
    from inference.simulate.plan import Plan

    Progress = Callable[[str, int, int], None]


TraceFile = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="CSV with TIMESTAMP, ContextTokens, GeneratedTokens;"
        " without --trace and --fleet: the sample in the package.",
    ),
]
FleetFile = Annotated[Path | None, typer.Option("--fleet", help="YAML file of a synthetic fleet.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Decides everything that is drawn.")]
AssignmentFile = Annotated[
    Path | None,
    typer.Option("--assign", help="YAML file that gives a trace's rows their owners."),
]
Month = Annotated[
    str | None,
    typer.Option("--rewrite-time-to", help="Map the times on a month, such as 2026-10."),
]
EndNow = Annotated[
    bool, typer.Option("--end-now", help="Shift the times so that the last request ends now.")
]
SpoolFolder = Annotated[
    Path | None,
    typer.Option("--spool", help="Folder for spools and outboxes; kept after publishing."),
]
Publish = Annotated[
    bool,
    typer.Option(
        "--publish/--no-publish",
        help="Register the sources and publish, or leave the events in outboxes.",
    ),
]
ReportFile = Annotated[
    Path | None, typer.Option("--report", help="Write what was emitted as JSON.")
]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(name="simulate")(simulate)


def simulate(  # noqa: PLR0913 - the options of a command
    trace: TraceFile = None,
    fleet: FleetFile = None,
    seed: Seed = 1,
    assign: AssignmentFile = None,
    month: Month = None,
    *,
    end_now: EndNow = False,
    spool: SpoolFolder = None,
    publish: Publish = True,
    report: ReportFile = None,
) -> None:
    """Simulate a fleet of engines and emit the events that real ones would.

    The same seed and input make the same bytes: publishing them again adds no usage.

    Example: [bold]rentroll simulate --trace trace.csv --rewrite-time-to 2026-10[/]
    """
    import json

    from rich.console import Console

    from inference.settings import InferenceSettings
    from inference.simulate.run import simulate as run

    console = Console()
    settings = InferenceSettings()
    with _progress(console) as on_progress:
        plan = _plan((trace, fleet, assign), seed, (month, end_now), settings, on_progress)
        emitted = run(plan, spool or _home() / "simulate", on_progress=on_progress)
    console.print(_summary(emitted))
    if report is not None:
        report.write_text(json.dumps(emitted.as_json(), indent=2) + "\n")
    if publish:
        with _progress(console) as on_progress:
            published = _publish(emitted, settings, on_progress)
        console.print(
            f"published {published.records} events, {published.resent} sent again,"
            f" {emitted.counts.records - published.records} missing"
        )
        if spool is None:
            _remove(emitted.folder)
    else:
        console.print(f"not published: the events are in {emitted.folder}")


def _plan(
    files: tuple[Path | None, Path | None, Path | None],
    seed: int,
    times: tuple[str | None, bool],
    settings: "InferenceSettings",
    on_progress: "Progress",
) -> "Plan":
    from inference.simulate.run import SAMPLE_TRACE, plan_fleet, plan_trace
    from schemas.clock import SystemClock
    from schemas.periods import parse_period

    trace, fleet, assign = files
    month, end_now = times
    if trace and fleet:
        raise typer.BadParameter("give --trace or --fleet, not both")
    if fleet and assign:
        raise typer.BadParameter("a fleet file says who owns what; --assign is for traces")
    if month and end_now:
        raise typer.BadParameter("give --rewrite-time-to or --end-now, not both")
    when = parse_period(month) if month else SystemClock() if end_now else None
    if fleet:
        return plan_fleet(fleet, seed=seed, when=when, settings=settings, on_progress=on_progress)
    return plan_trace(
        trace or SAMPLE_TRACE,
        seed=seed,
        assignment=assign,
        when=when,
        settings=settings,
        on_progress=on_progress,
    )


def _publish(
    emitted: "Emitted", settings: "InferenceSettings", on_progress: "Progress"
) -> "PublishedCounts":
    """Make the store trust the sources first: what nobody registered is never billed."""
    from inference.publisher import publish_outboxes
    from inference.simulate.register import register_sources
    from infra.endpoints import resolve
    from infra.kafka.topics import ensure_topics
    from infra.settings import InfraSettings
    from infra.store.engine import open_store
    from schemas.clock import SystemClock
    from schemas.units import NS_PER_MS

    endpoints = resolve(InfraSettings())
    ensure_topics(endpoints.kafka_bootstrap)
    store = open_store(endpoints.store_url)
    register_sources(store, emitted, now_ms=SystemClock().now_ns() // NS_PER_MS)
    store.dispose()
    return publish_outboxes(
        emitted.folder, endpoints.kafka_bootstrap, on_progress=on_progress, settings=settings
    )


def _home() -> Path:
    from infra.settings import InfraSettings

    return InfraSettings().home


def _remove(folder: Path) -> None:
    """What is published needs no outbox any more."""
    import shutil

    shutil.rmtree(folder)


def _progress(console: "Console") -> "AbstractContextManager[Progress]":
    """Bars that this thread refreshes itself: a second thread would keep replicas from forking."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    @contextmanager
    def bars() -> "Iterator[Progress]":
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Bars(*columns, console=console, auto_refresh=False, transient=True) as shown:
            tasks = {}

            def on_progress(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = shown.add_task(what, total=total or None)
                shown.update(tasks[what], completed=done, refresh=True)

            yield on_progress

    return bars()


def _summary(emitted: "Emitted") -> "Table":
    from rich.table import Table

    table = Table(title=f"emitted in {emitted.seconds:.1f} s", title_justify="left")
    table.add_column("what")
    table.add_column("amount", justify="right")
    rows: list[tuple[str, int]] = [
        ("requests finished", emitted.events),
        *((meter.replace("_", " "), amount) for meter, amount in emitted.tokens.items()),
        ("GPU-ns attributed to requests", emitted.gpu_ns),
        ("engine intervals", emitted.counts.intervals),
        ("events of every kind", emitted.counts.records),
        ("sources", len(emitted.sources)),
    ]
    for name, amount in rows:
        table.add_row(name, f"{amount:,}")
    time = emitted.counts.time
    table.add_section()
    table.add_row("GPU-ns owned", f"{time['owned_ns']:,}")
    for name in ("attributed", "stall", "idle", "overhead", "startup"):
        table.add_row(f"  {name}", f"{time[f'{name}_ns']:,}")
    table.add_row("  difference", f"{emitted.counts.unexplained_ns():,}")
    return table
