"""Ingest for an hour at a steady rate: flat memory, bounded lag, nothing lost: `make soak`.

Golden-shaped events are sent at `--rate` for `--minutes` while one worker takes them into
ClickHouse; a line per minute says how far it is and what it holds. In the end every event has to
be in the ledger once: as many rows, and the same sum of content hashes, as were sent.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from rich.console import Console
from rich.table import Table

from bench.golden_events import golden_values
from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.kafka.topics import ensure_topics
from schemas.ids import content_hash
from schemas.topics import USAGE
from tests.support.ingest_process import start_worker
from tests.support.servers.clickhouse import clickhouse
from tests.support.servers.kafka import kafka

DATABASE, GROUP = "soak", "soak"
BEAT_S = 0.1
LAG_S_MAX = 15
GROWTH_MAX = 1.15
"""Of the worker's memory: the last third of the minutes over the first, from the third on."""
GROWTH_MB = 40
DRAIN_S = 300
WRAP = 2**64
KEPT_BYTES = 2**30
"""Of the log, per partition: an hour's worth would fill small disks."""
HASH = "reinterpretAsUInt64(substring(content_hash, 1, 8))"
SETTINGS = {
    "RENTROLL_INGEST_ROWS": "20000",
    "RENTROLL_INGEST_QUIET_MS": "400",
    "RENTROLL_INGEST_WAIT_MS": "3000",
    "RENTROLL_INGEST_SESSION_TIMEOUT_S": "45",
    "RENTROLL_INGEST_HEARTBEAT_S": "3",
}
"""What a worker has by default; tests start theirs in more of a hurry."""


class Sender(threading.Thread):
    """Sends events at a steady rate, and keeps their number and the sum of their hashes."""

    def __init__(self, bootstrap: str, rate: int, seconds: int) -> None:
        super().__init__(name="sender", daemon=True)
        self.bootstrap, self.rate, self.seconds = bootstrap, rate, seconds
        self.sent = self.hashes = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._send()
        except BaseException as error:
            self.failure = error

    def _send(self) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap,
            compression_type="lz4",
            linger_ms=50,
            batch_size=262_144,
        )
        began, total = time.monotonic(), self.rate * self.seconds
        for key, value in golden_values(total):
            producer.send(USAGE.name, key=key, value=value)
            self.sent += 1
            self.hashes = (self.hashes + hash_prefix(value)) % WRAP
            if self.sent % max(int(self.rate * BEAT_S), 1) == 0:
                time.sleep(max(began + self.sent / self.rate - time.monotonic(), 0))
        producer.flush()
        producer.close()


@dataclass(slots=True)
class Minute:
    """What was seen at a minute's end."""

    number: int
    sent: int
    stored: int
    worker_mb: int
    worker_cpu_s: float
    at_s: float = field(default_factory=time.monotonic)

    @property
    def lag(self) -> int:
        return max(self.sent - self.stored, 0)


def hash_prefix(value: bytes) -> int:
    """The first 8 bytes of an event's content hash, as ClickHouse reads them."""
    return int.from_bytes(content_hash(value)[:8], "little")


def main() -> int:
    """0 if everything held."""
    asked = _arguments()
    console = Console(stderr=True)
    with (
        kafka() as bootstrap,
        clickhouse() as url,
        tempfile.TemporaryDirectory(prefix="rentroll-soak-") as folder,
    ):
        ensure_topics(bootstrap)
        _bound_the_log(bootstrap)
        migrate(url, DATABASE)
        worker = start_worker(
            kafka=bootstrap,
            clickhouse=url,
            database=DATABASE,
            group=GROUP,
            folder=Path(folder),
            settings=SETTINGS,
        )
        try:
            with connect(url, DATABASE) as ledger:
                sender = Sender(bootstrap, asked.rate, asked.minutes * 60)
                minutes = _watch(sender, worker, ledger, asked, console)
                faults = _faults(sender, minutes, ledger, asked.rate)
        finally:
            worker.terminate()
            worker.wait(60)
        if worker.returncode:
            faults.append(f"the worker ended with {worker.returncode}")
    for fault in faults:
        console.print(fault, style="red")
    return bool(faults)


def _watch(
    sender: Sender,
    worker: "subprocess.Popen[bytes]",
    ledger: Client,
    asked: argparse.Namespace,
    console: Console,
) -> list[Minute]:
    """Look once a minute; ends when everything was sent."""
    table = Table(*HEAD)
    minutes = [_look(0, sender, worker, ledger)]
    sender.start()
    for number in range(1, asked.minutes + 1):
        sender.join(max(minutes[0].at_s + 60 * number - time.monotonic(), 0))
        if worker.poll() is not None or sender.failure is not None:
            break
        seen = _look(number, sender, worker, ledger)
        cpu = (seen.worker_cpu_s - minutes[-1].worker_cpu_s) / (seen.at_s - minutes[-1].at_s)
        row = [f"{number}", f"{seen.sent:,}", f"{seen.stored:,}", f"{seen.lag:,}"]
        row += [f"{seen.lag / asked.rate:.1f}", f"{seen.worker_mb}", f"{cpu:.0%}"]
        console.print("  ".join(f"{name} {value}" for name, value in zip(HEAD, row, strict=True)))
        table.add_row(*row)
        minutes.append(seen)
    console.print(table)
    return minutes


HEAD = ("minute", "sent", "in the ledger", "lag", "lag s", "worker MB", "CPU")


def _look(number: int, sender: Sender, worker: "subprocess.Popen[bytes]", ledger: Client) -> Minute:
    status = Path(f"/proc/{worker.pid}/status").read_text()
    (resident,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    times = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu_s = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    sent = sender.sent
    ((stored,),) = ledger.query("SELECT count() FROM usage_events").result_rows
    return Minute(number, sent, int(stored), int(resident.split()[1]) // 1024, cpu_s)


def _faults(sender: Sender, minutes: list[Minute], ledger: Client, rate: int) -> list[str]:
    """What did not hold, in words."""
    faults = [f"the sender failed: {sender.failure!r}"] if sender.failure else []
    sender.join()
    deadline = time.monotonic() + DRAIN_S
    wanted = (sender.sent, sender.hashes)
    while (found := _ledger(ledger)) != wanted and time.monotonic() < deadline:
        time.sleep(2)
    if found != wanted:
        faults.append(f"sent were {wanted[0]:,} events, in the ledger are {found[0]:,}; or others")
    worst = max(minute.lag for minute in minutes)
    if worst > LAG_S_MAX * rate:
        faults.append(f"the lag came to {worst:,} events, {worst / rate:.0f} s")
    steady = [minute.worker_mb for minute in minutes[2:]]
    if len(steady) >= 6:
        third = len(steady) // 3
        first, last = statistics.median(steady[:third]), statistics.median(steady[-third:])
        if last > max(first * GROWTH_MAX, first + GROWTH_MB):
            faults.append(f"the worker's memory grew from {first} to {last} MB")
    return faults


def _ledger(ledger: Client) -> tuple[int, int]:
    query = f"SELECT count(), sum({HASH}) FROM usage_events FINAL"
    ((count, hashes),) = ledger.query(query).result_rows
    return int(count), int(hashes) % WRAP


def _bound_the_log(bootstrap: str) -> None:
    admin: Any = KafkaAdminClient(bootstrap_servers=bootstrap)
    limits = {"retention.bytes": str(KEPT_BYTES), "segment.bytes": str(KEPT_BYTES // 8)}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, USAGE.name, limits)])
    admin.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=5_000, help="events a second")
    parser.add_argument("--minutes", type=int, default=60)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
