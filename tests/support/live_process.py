"""One worker of live spend as a process of its own, which can be told to die at a step."""

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from infra.clickhouse.client import connect
from infra.store.engine import open_store
from schemas.clock import FixedClock, SystemClock
from schemas.units import NS_PER_MS
from streams.live_app import LiveServers, LiveWorker
from streams.settings import StreamSettings
from streams.telemetry import log_as_json
from tests.support.ingest_process import ROOT, die_at


def start_live(
    *,
    kafka: str,
    store_url: str,
    folder: Path,
    group: str,
    ledger: tuple[str, str] | None = None,
    now_ms: int | None = None,
    until_idle_s: float | None = None,
    die_at: str = "",
    settings: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a worker. `die_at` is `step:n`: kill -9 itself when it is there for the n-th time."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.support.live_process", kafka, store_url, str(folder)]
    command += ["--die-at", die_at] if die_at else []
    command += ["--until-idle", str(until_idle_s)] if until_idle_s is not None else []
    command += ["--ledger", *ledger] if ledger else []
    command += ["--now-ms", str(now_ms)] if now_ms is not None else []
    environment = os.environ | {
        "RENTROLL_LIVE_GROUP": group,
        "RENTROLL_INGEST_SESSION_TIMEOUT_S": "6",
        "RENTROLL_INGEST_HEARTBEAT_S": "1",
        "RENTROLL_LIVE_CORRECT_S": "1",
        **(settings or {}),
    }
    with (folder / "live.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kafka")
    parser.add_argument("store")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ledger", nargs=2)
    parser.add_argument("--now-ms", type=int)
    parser.add_argument("--die-at", default="never:1")
    parser.add_argument("--until-idle", type=float)
    asked = parser.parse_args()
    log_as_json()
    clock = SystemClock() if asked.now_ms is None else FixedClock(asked.now_ms * NS_PER_MS)
    worker = LiveWorker(
        StreamSettings(),
        LiveServers(
            asked.kafka,
            open_store(asked.store),
            partial(connect, *asked.ledger) if asked.ledger else None,
        ),
        folder=asked.folder,
        clock=clock,
        hook=die_at(asked.die_at),
    )
    worker.run(until_idle_s=asked.until_idle)


if __name__ == "__main__":
    main()
