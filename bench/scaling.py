"""CPU per event with 1, 2 and 4 workers on one topic of 4 partitions: `python -m bench.scaling`.

The topic is filled once; then one, two and four workers of one consumer group, each its own
process, take it into a new ledger until they are idle. A worker's CPU runs from when it has joined
the group to its last insert, so that starting Python is left out. On two cores the wall time cannot
shrink with four workers; what must stay is what an event costs. Required: at most 1.25 times the
CPU per event of one worker. With too few events the first worker takes all before the others have
joined; how many had partitions is printed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kafka import KafkaProducer

from bench.golden_events import golden_values
from infra.clickhouse.client import connect
from infra.clickhouse.migrate import migrate
from infra.kafka.topics import ensure_topics
from schemas.topics import USAGE
from streams.app import IngestWorker
from streams.clickhouse_sink import ClickHouseSink
from streams.settings import StreamSettings
from streams.telemetry import log_as_json
from tests.support.servers.clickhouse import clickhouse
from tests.support.servers.kafka import kafka

WORKERS = (1, 2, 4)
RATIO_MAX = 1.25
IDLE_S = 5.0


def main() -> int:
    """Print wall and CPU per event for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kafka", help=argparse.SUPPRESS)
    parser.add_argument("--clickhouse", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker is not None:
        _work(asked)
        return 0
    with kafka() as bootstrap, clickhouse() as url:
        _fill(bootstrap, asked.events)
        cost = {number: _measured(number, bootstrap, url, asked.events) for number in WORKERS}
    failed = 0
    for number in WORKERS[1:]:
        ratio = cost[number] / cost[1]
        failed += ratio > RATIO_MAX
        verdict = "ok" if ratio <= RATIO_MAX else "MISSED"
        print(f"{number} workers / 1: {ratio:.2f} (required: at most {RATIO_MAX}) {verdict}")
    return 1 if failed else 0


def _fill(bootstrap: str, events: int) -> None:
    ensure_topics(bootstrap)
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, compression_type="lz4", linger_ms=50, batch_size=262_144
    )
    for key, value in golden_values(events):
        producer.send(USAGE.name, key=key, value=value)
    producer.flush()
    producer.close()


def _measured(workers: int, bootstrap: str, url: str, events: int) -> float:
    """CPU microseconds an event, over all workers."""
    database = f"bench_scaling_{workers}"
    migrate(url, database)
    with tempfile.TemporaryDirectory(prefix="rentroll-bench-") as folder:
        files = [Path(folder) / f"{number}.json" for number in range(workers)]
        started = [_start(workers, bootstrap, url, file) for file in files]
        for process in started:
            if process.wait(timeout=1_800):
                raise SystemExit(f"a worker of {workers} ended with {process.returncode}")
        results = [json.loads(file.read_text()) for file in files]
    with connect(url, database) as client:
        ((rows,),) = client.query("SELECT count() FROM usage_events FINAL").result_rows
        client.command(f"DROP DATABASE {database} SYNC")
    if rows != events:
        raise SystemExit(f"{workers} workers: {rows} rows, expected {events}")
    busy = [one for one in results if one["inserts"]]
    cpu_us = float(sum(one["cpu_s"] for one in busy)) / events * 1e6
    wall_s = max(one["ended"] for one in busy) - min(one["joined"] for one in busy)
    print(
        f"{workers} workers ({len(busy)} had partitions): {events / wall_s:,.0f} events/s,"
        f" CPU {cpu_us:.2f} us an event"
    )
    return cpu_us


def _start(workers: int, bootstrap: str, url: str, result: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "bench.scaling", "--worker", str(workers)]
    command += ["--kafka", bootstrap, "--clickhouse", url, "--result", str(result)]
    return subprocess.Popen(command)


def _work(asked: argparse.Namespace) -> None:
    """One worker of the group, until nothing has come for a while."""
    noted: dict[str, float] = {"inserts": 0, "joined": 0, "cpu_s": 0, "ended": 0}
    cpu_at_joining = 0.0

    def note(step: str) -> None:
        nonlocal cpu_at_joining
        # Of several assignments the last before the first insert counts.
        if step == "joined" and not noted["inserts"]:
            noted["joined"], cpu_at_joining = time.monotonic(), time.process_time()
        elif step == "after-insert":
            noted["inserts"] += 1
            noted["ended"] = time.monotonic()
            noted["cpu_s"] = time.process_time() - cpu_at_joining

    log_as_json(quiet=True)
    with tempfile.TemporaryDirectory(prefix="rentroll-bench-") as folder:
        IngestWorker(
            StreamSettings(ingest_group=f"bench-scaling-{asked.worker}"),
            kafka_bootstrap=asked.kafka,
            ledger=ClickHouseSink(asked.clickhouse, f"bench_scaling_{asked.worker}"),
            folder=Path(folder),
            topics=(USAGE,),
            hook=note,
        ).run(until_idle_s=IDLE_S)
    asked.result.write_text(json.dumps(noted))


if __name__ == "__main__":
    sys.exit(main())
