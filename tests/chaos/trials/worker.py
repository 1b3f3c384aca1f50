"""Real ingest workers, forked off a process that has everything imported: one costs milliseconds.

`python -m tests.chaos.trials.worker` reads one JSON order a line and answers with one.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from schemas.topics import TOPICS
from streams.app import IngestWorker
from streams.clickhouse_sink import ClickHouseSink
from streams.columns import warm_up
from streams.settings import StreamSettings
from streams.telemetry import log_as_json

FATE = "fate"
"""In a worker's folder: what is to happen to it, at which passing of which step."""
SETTINGS = {
    "ingest_rows": 40,
    "ingest_quiet_ms": 40,
    "ingest_wait_ms": 120,
    "ingest_grace_s": 3,
    "ingest_insert_timeout_s": 2,
    "ingest_retry_last_ms": 400,
    "ingest_metadata_age_s": 1,
    "ingest_retention_check_s": 1,
    "ingest_report_s": 600,
    "ingest_session_timeout_s": 1.5,
    "ingest_heartbeat_s": 0.3,
}
"""Shorter than settings may be, so that a trial does not wait for the session of a dead one."""


class Fate:
    """A hook that looks whether something is to happen at this step, and does it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FATE
        self._joined = folder / "joined"

    def __call__(self, step: str) -> None:
        if step == "joined":
            self._joined.write_text(f"{time.process_time():.2f} s of CPU until it joined\n")
        if not self._path.exists():
            return
        wanted, count, what = self._path.read_text().split()
        if step != wanted:
            return
        if int(count) > 1:
            self._path.write_text(f"{wanted} {int(count) - 1} {what}")
            return
        self._path.unlink()
        _suffer(what)


def _suffer(what: str) -> None:
    if what == "stall":
        time.sleep(1.0)
    else:
        number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "freeze": signal.SIGSTOP}[what]
        os.kill(os.getpid(), number)


def work(kafka: str, clickhouse: str, database: str, group: str, folder: str) -> None:
    """Be a worker until a signal ends it."""
    settings = StreamSettings().model_copy(update=SETTINGS | {"ingest_group": group})
    ledger = ClickHouseSink(clickhouse, database, answer_timeout_s=2)
    IngestWorker(
        settings,
        kafka_bootstrap=kafka,
        ledger=ledger,
        folder=Path(folder),
        topics=TOPICS,
        hook=Fate(Path(folder)),
    ).run()


class Nursery:
    """The other end: starts workers, and knows how they ended."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.chaos.trials.worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, **order: str) -> int:
        """Fork a worker; its process id."""
        return int(self._ask({"start": order}))

    def ended(self, pid: int) -> int | None:
        """The exit code, or minus the signal; None while it runs."""
        code: int | None = self._ask({"ended": pid})
        return code

    def close(self) -> None:
        self._process.communicate(timeout=10)

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _fork(order: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        folder = Path(order["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        log = os.open(folder / "worker.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for number in (1, 2):
            os.dup2(log, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log_as_json()
        work(**order)
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    warm_up()
    gc.collect()
    gc.freeze()
    ended: dict[int, int] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            answer: int | None = _fork(order["start"])
        else:
            pid = order["ended"]
            if pid not in ended:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = ended.get(pid)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
