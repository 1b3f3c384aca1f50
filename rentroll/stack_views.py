"""How the local stack looks in a terminal: its start, its table, its findings, its logs."""

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from infra.stack.doctor import Check
from infra.stack.logs import LogLine
from infra.stack.state import Phase, StackState
from infra.stack.status import StackStatus

COLOURS = {"kafka": "cyan", "clickhouse": "yellow", "store": "green", "stripe": "magenta"}
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400


class StackProgress:
    """One line per member that spins until the member is ready; give `show` as `on_progress`."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._lines: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, state: StackState) -> None:
        """Show what has changed."""
        for member in state.members:
            text = f"{member.name:10} {escape(member.address)} [dim]{member.provided}[/]"
            if member.name not in self._lines:
                self._lines[member.name] = self._progress.add_task(text, total=1)
            ready = member.phase is Phase.READY
            self._progress.update(
                self._lines[member.name], description=text, completed=1 if ready else 0
            )


def show_endpoints(console: Console, state: StackState) -> None:
    """Where the members answer, in plain text that can be copied."""
    for name, address in sorted(state.endpoints.items()):
        console.print(f"  {name:16} {address}", markup=False, highlight=False, soft_wrap=True)


def status_table(status: StackStatus) -> Table:
    """One row per member."""
    keeper = status.keeper
    kept = f"kept by process {keeper.pid}" if keeper else "no keeper runs; start it: rentroll up"
    table = Table(title=kept, title_justify="left")
    for column in ("member", "provided", "address", "pid", "health", "uptime"):
        table.add_column(column, overflow="fold")
    for row in status.members:
        table.add_row(
            row.name,
            row.provided,
            escape(row.address),
            str(row.pid or ""),
            f"[{'green' if row.healthy else 'red'}]{row.health}[/]",
            "" if row.uptime_s is None else elapsed(row.uptime_s),
        )
    return table


def elapsed(seconds: int) -> str:
    """A duration as a person says it: `42s`, `3m 5s`, `2h 10m`, `4d 1h`."""
    if seconds < MINUTE_S:
        return f"{seconds}s"
    if seconds < HOUR_S:
        return f"{seconds // MINUTE_S}m {seconds % MINUTE_S}s"
    if seconds < DAY_S:
        return f"{seconds // HOUR_S}h {seconds % HOUR_S // MINUTE_S}m"
    return f"{seconds // DAY_S}d {seconds % DAY_S // HOUR_S}h"


def show_checks(console: Console, checks: Iterable[Check]) -> bool:
    """Print each finding as it comes; whether all are ok."""
    all_ok = True
    for check in checks:
        sign = "[green]✓[/]" if check.ok else "[red]✗[/]"
        console.print(f"{sign} {check.name:22} {escape(check.found)}", highlight=False)
        if not check.ok:
            console.print(f"  [bold]to mend it:[/] {escape(check.remedy)}", highlight=False)
            all_ok = False
    return all_ok


def show_lines(console: Console, lines: Iterable[LogLine]) -> None:
    """Print log lines, each behind the name of its member."""
    for line in lines:
        text = Text(f"{line.member:10} ", style=COLOURS.get(line.member, "white"))
        console.print(text.append(line.text, style="default"), soft_wrap=True)
