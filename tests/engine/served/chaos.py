"""Serves a tiny model with `rentroll serve-model`, kills its processes, and checks every event.

`make chaos-engine ENGINE_CHAOS_ARGS='--requests 2200 --kills 14 --seed 1'`
"""

import argparse
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra.kafka.topics import ensure_topics
from tests.engine.served.chaos_host import ChaosHost, Executor
from tests.engine.served.chaos_kills import STATUS, WHATS, Kill, What, plan_kills, strike
from tests.engine.served.chaos_report import ChaosReport
from tests.engine.served.chaos_traffic import ChaosTraffic
from tests.engine.served.host import write_model
from tests.support.serve_runs import wait_for
from tests.support.servers.kafka import kafka

THREADS = 10
_BEHIND_S = 3_600
_WIDTH = 170
"""Of tables in a file."""


class Striker(threading.Thread):
    """Does the kills in their order, each once so many requests have begun."""

    def __init__(
        self,
        host: ChaosHost,
        traffic: ChaosTraffic,
        kills: Sequence[Kill],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(name="striker")
        self._host, self._traffic, self._kills, self._say = host, traffic, kills, say
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            for number, kill in enumerate(self._kills, 1):
                self._say(f"{number} of {len(self._kills)} next: {kill.name}")
                reached = lambda at=kill.at_request: self._traffic.begun > at  # noqa: E731
                wait_for(reached, f"request {kill.at_request}", _BEHIND_S)
                threading.Event().wait(kill.wait_s)
                strike(self._host, kill, self._say)
        except BaseException as error:
            self.failure = error
            self._host.serving.set()


def run_chaos(
    folder: Path,
    bootstrap: str,
    model: Path,
    *,
    requests: int,
    seed: int,
    kills: int,
    whats: Sequence[What] = WHATS,
    executor: Executor = "uni",
    threads: int = THREADS,
    say: Callable[[str], None] = lambda _: None,
    count: Callable[[int], None] = lambda _: None,
) -> ChaosReport:
    """One run, from the first boot to the last byte on Kafka; nothing of it stays."""
    host = ChaosHost(folder)
    planned = plan_kills(seed, requests, kills, executor, whats)
    try:
        host.open(bootstrap, model, executor)
        traffic = ChaosTraffic(host, seed)
        striker = Striker(host, traffic, planned, say)
        striker.start()
        seen = traffic.run(requests, threads, count)
        striker.join()
        if striker.failure is not None:
            raise striker.failure
        say("ending")
        status = host.end()
        (host.folder / "clients.json").write_bytes(msgspec.json.encode(seen))
        (host.folder / "kills.json").write_bytes(msgspec.json.encode(planned))
        report = ChaosReport(host.story(), host.tap.witness(), seen, planned)
    finally:
        host.clean_up()
    for kill in planned:
        if kill.ends_the_server and kill.status != STATUS[kill.what]:
            report.findings.append(f"{kill.name} ended serve-model with {kill.status}")
    if status:
        report.findings.append(f"the last run ended with {status}: {host.text()[-2_000:]}")
    return report


def main() -> int:
    """1 if anything is off."""
    arguments = _arguments()
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    folder = Path(tempfile.mkdtemp(prefix="rentroll-chaos-"))
    with kafka() as bootstrap, Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        ensure_topics(bootstrap)
        task = progress.add_task("requests", total=arguments.requests)
        report = run_chaos(
            folder / "run",
            bootstrap,
            write_model(folder / "model"),
            requests=arguments.requests,
            seed=arguments.seed,
            kills=arguments.kills,
            executor=arguments.executor,
            threads=arguments.threads,
            say=lambda text: progress.console.print(text, highlight=False),
            count=lambda done: progress.update(task, completed=done),
        )
    report.show(console)
    console.print(f"logs, spools and what was printed: {folder}")
    return 1 if report.findings else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos-engine", description=__doc__)
    parser.add_argument("--requests", type=int, default=2_200, help="how many, mixed")
    parser.add_argument(
        "--kills", type=int, default=14, help="how many processes die, or are asked"
    )
    parser.add_argument(
        "--executor", choices=["uni", "mp"], default="uni", help="mp: the engine has a worker"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the traffic and of the kills")
    parser.add_argument("--threads", type=int, default=THREADS, help="clients at a time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
