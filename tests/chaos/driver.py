"""Chaos trials of ingest: real Kafka, ClickHouse and workers, random faults, one seed.

`make chaos TRIALS=1000 SEED=7`; the seed decides traffic and faults, not when the machine is slow.
"""

import argparse
import json
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.chaos.trials.expected import alarms_in, stored_copies
from tests.chaos.trials.faults import FAULTS
from tests.chaos.trials.lane import Servers, lane
from tests.chaos.trials.trial import Outcome, run_trial

TRIALS_OF_A_LANE = 25
"""Then come fresh topics, another group and an empty ledger."""
_WIDTH = 120


def run_trials(
    folder: Path, seed: str, numbers: range, only: Sequence[str] = ()
) -> Iterator[Outcome]:
    """Run trials on servers of their own; each outcome as it comes.

    Args:
        folder: For data and logs.
        seed: Of all trials; each draws from it and its number.
        numbers: Of the trials.
        only: Names of faults to draw from; all of them by default.
    """
    servers = Servers(folder)
    try:
        first = numbers.start
        while first < numbers.stop:
            some = range(first, min(first + TRIALS_OF_A_LANE, numbers.stop))
            for outcome in _run_lane(servers, folder, seed, some, only):
                first = outcome.number + 1
                yield outcome
    finally:
        servers.close()


def _run_lane(
    servers: Servers, folder: Path, seed: str, numbers: range, only: Sequence[str]
) -> Iterator[Outcome]:
    """Ends early where something is wrong: what comes after it starts afresh."""
    with lane(servers, numbers.start, folder) as here:
        for number in numbers:
            try:
                outcome = run_trial(here, seed, number, only)
            except TimeoutError as error:
                outcome = Outcome(number, wrong=[str(error)])
            if number == numbers[-1]:
                outcome.wrong += here.end()
                outcome.copies = stored_copies(here.ledger)
                last = here.expected.difference(here.ledger, alarms_in(here.folder))
                outcome.lost, outcome.doubled = last.lost, last.doubled
                outcome.wrong += last.examples[:5]
            yield outcome
            if not outcome.is_good:
                return


def show(console: Console, outcomes: list[Outcome], seed: str, wall_s: float) -> None:
    """Print what came of it, by fault."""
    table = Table("fault", "trials", "lost", "doubled", "otherwise wrong", title=f"seed {seed}")
    for name in (fault.name for fault in FAULTS):
        some = [outcome for outcome in outcomes if name in outcome.faults]
        wrong = sum(not one.is_good for one in some)
        counts = (len(some), sum(one.lost for one in some), sum(one.doubled for one in some), wrong)
        table.add_row(name, *(f"{count:,}" for count in counts))
    console.print(table)
    sent, lost = sum(one.sent for one in outcomes), sum(one.lost for one in outcomes)
    console.print(
        f"{len(outcomes):,} trials, {sent:,} records sent, {lost} lost,"
        f" {sum(one.doubled for one in outcomes)} doubled,"
        f" {sum(one.alarmed for one in outcomes):,} taken by retention and said;"
        f" {sum(one.copies for one in outcomes):,} copies that lie in the ledgers and collapse;"
        f" {wall_s:,.0f} s, {wall_s / max(len(outcomes), 1):.2f} s each"
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = (used.ru_utime + used.ru_stime) / max(len(outcomes), 1)
    console.print(f"CPU of servers and workers, their start included: {cpu_s:.2f} s a trial")


def main() -> int:
    """1 if anything is off."""
    asked = _arguments()
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    # Ctrl-C, and a plain kill, end the servers and workers too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console.print(f"seed {asked.seed}", highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="rentroll-chaos-"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    numbers = range(asked.first, asked.first + asked.trials)
    outcomes: list[Outcome] = []
    began = time.monotonic()
    with (
        suppress(KeyboardInterrupt),
        Progress(*columns, TimeElapsedColumn(), console=console) as progress,
    ):
        task = progress.add_task("trials", total=asked.trials)
        for outcome in run_trials(folder, asked.seed, numbers, asked.fault):
            outcomes.append(outcome)
            progress.advance(task)
            if asked.report:
                asked.report.write_text(json.dumps([asdict(one) for one in outcomes], indent=1))
            if not outcome.is_good:
                progress.console.print(f"{outcome}", style="red", highlight=False)
    show(console, outcomes, asked.seed, time.monotonic() - began)
    console.print(f"logs: {folder}", highlight=False)
    return int(len(outcomes) < asked.trials or not all(one.is_good for one in outcomes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--fault", action="append", choices=names, help="only this; repeatable")
    parser.add_argument("--report", type=Path, help="write every trial to this file, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
