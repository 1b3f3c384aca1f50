"""Runs the simulation: `make simulate-sink SCHEDULES=100000`, or one schedule again by its seed."""

import argparse
import os
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.simulation.life import Build
from tests.simulation.many import Tally, run_many
from tests.simulation.schedule import run_schedule

_SHOWN = 10


def main() -> int:
    """1 if anything was found."""
    asked = _arguments()
    console = Console()
    if asked.kill_at or asked.schedules == 1:
        verdict = run_schedule(asked.seed, Build(), asked.kill_at)
        console.print(verdict)
        return bool(verdict.findings)
    tally, began = Tally(), time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("schedules", total=asked.schedules)
        for portion in run_many(asked.seed, asked.schedules, asked.processes):
            tally.add(portion)
            progress.update(task, completed=tally.schedules)
    _show(console, tally, time.perf_counter() - began)
    return bool(tally.findings)


def _show(console: Console, tally: Tally, wall_s: float) -> None:
    table = Table("fault", "schedules", "with a finding", title="schedules by fault")
    for fault, count in tally.by_fault.most_common():
        table.add_row(fault, f"{count:,}", f"{tally.found_by_fault[fault]:,}")
    console.print(table)
    for finding in tally.findings[:_SHOWN]:
        console.print(f"python -m tests.simulation {finding}", highlight=False, style="red")
    console.print(
        f"{tally.schedules:,} schedules, {tally.steps:,} steps, {wall_s:,.0f} s;"
        f" {tally.alarmed:,} offsets lost to retention, each said;"
        f" schedules with a finding: {len(tally.findings)}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make simulate-sink", description=__doc__)
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--kill-at", type=int, help="show one: kill -9 before this step")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
