"""One archiver as a process of its own, which can be told to die at a step."""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.objects.opening import open_objects
from infra.stop_request import StopRequest
from infra.store.engine import open_store
from schemas.clock import SystemClock
from schemas.topics import TOPICS
from streams.archive import Archive
from streams.archive_heads import StoredHeads
from streams.archive_log import GroupLog
from streams.archive_worker import Archiver
from streams.settings import StreamSettings
from streams.telemetry import log_as_json
from tests.support.ingest_process import ROOT, die_at

STEPS = ("before-file:2", "after-file:2", "after-entry:2", "after-head:3", "after-range:2")


def start_archiver(
    *,
    kafka: str,
    archive: str,
    store_url: str,
    group: str,
    log: Path,
    until_idle_s: float | None = None,
    kill_at: str = "",
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start an archiver. `kill_at` is `step:n`: kill -9 itself when it is there the n-th time."""
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.support.archive_process", kafka, archive, store_url]
    command += ["--kill-at", kill_at] if kill_at else []
    command += ["--until-idle", str(until_idle_s)] if until_idle_s is not None else []
    settings = {
        "RENTROLL_ARCHIVE_GROUP": group,
        "RENTROLL_ARCHIVE_FILE_RECORDS": "300",
        "RENTROLL_ARCHIVE_WAIT_S": "1",
        "RENTROLL_INGEST_SESSION_TIMEOUT_S": "6",
        "RENTROLL_INGEST_HEARTBEAT_S": "1",
        "RENTROLL_INGEST_FETCH_BYTES": "65536",
    }
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | settings | dict(environment or {}),
            stdout=output,
            stderr=output,
        )


async def _run(asked: argparse.Namespace) -> None:
    settings = StreamSettings()
    group = GroupLog(
        asked.kafka,
        settings.archive_group,
        session_timeout_s=settings.ingest_session_timeout_s,
        heartbeat_s=settings.ingest_heartbeat_s,
        fetch_bytes=settings.ingest_fetch_bytes,
    )
    stop = StopRequest()
    stop.on((signal.SIGTERM, signal.SIGINT))
    archiver = Archiver(
        Archive(open_objects(asked.archive)),
        group,
        StoredHeads(open_store(asked.store), SystemClock()),
        settings,
        hook=die_at(asked.kill_at),
    )
    await archiver.run([topic.name for topic in TOPICS], stop, until_idle_s=asked.until_idle)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kafka")
    parser.add_argument("archive")
    parser.add_argument("store")
    parser.add_argument("--kill-at", default="never:1")
    parser.add_argument("--until-idle", type=float)
    log_as_json()
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
