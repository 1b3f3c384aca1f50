"""One ingest worker as a process of its own, which can be told to die at a step of the protocol."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from streams.app import IngestWorker
from streams.clickhouse_sink import ClickHouseSink
from streams.settings import StreamSettings
from streams.sink_needs import Hook
from streams.telemetry import log_as_json

ROOT = Path(__file__).resolve().parents[2]


def start_worker(
    *,
    kafka: str,
    clickhouse: str,
    database: str,
    group: str,
    folder: Path,
    until_idle_s: float | None = None,
    die_at: str = "",
    settings: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a worker. `die_at` is `step:n`: kill -9 itself when it is there for the n-th time."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.support.ingest_process"]
    command += [kafka, clickhouse, database, str(folder)]
    command += ["--die-at", die_at] if die_at else []
    command += ["--until-idle", str(until_idle_s)] if until_idle_s is not None else []
    environment = os.environ | {
        "RENTROLL_INGEST_GROUP": group,
        "RENTROLL_INGEST_SESSION_TIMEOUT_S": "6",
        "RENTROLL_INGEST_HEARTBEAT_S": "1",
        "RENTROLL_INGEST_QUIET_MS": "100",
        "RENTROLL_INGEST_WAIT_MS": "300",
        "RENTROLL_INGEST_ROWS": "400",
        **(settings or {}),
    }
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def die_at(step_and_count: str) -> Hook:
    """A hook that ends the process, as a power cut would, at a step's n-th passing."""
    wanted, _, count = step_and_count.partition(":")
    passed = 0

    def hook(step: str) -> None:
        nonlocal passed
        passed += step == wanted
        if step == wanted and passed == int(count):
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kafka")
    parser.add_argument("clickhouse")
    parser.add_argument("database")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die-at", default="never:1")
    parser.add_argument("--until-idle", type=float)
    asked = parser.parse_args()
    log_as_json()
    settings = StreamSettings()
    worker = IngestWorker(
        settings,
        kafka_bootstrap=asked.kafka,
        ledger=ClickHouseSink(
            asked.clickhouse, asked.database, answer_timeout_s=settings.ingest_insert_timeout_s
        ),
        folder=asked.folder,
        hook=die_at(asked.die_at),
    )
    worker.run(until_idle_s=asked.until_idle)


if __name__ == "__main__":
    main()
