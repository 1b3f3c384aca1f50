"""Ingest against a naive Faust agent and a bare consumer, on two cores: `python -m bench.ingest`.

One run: a 4-partition topic is filled with golden-shaped `request.finished` events; then, one
after the other and each as its own process, three contenders take it into ClickHouse:

    naive      a `faust.Record` agent that inserts the same rows, on a slice of the topic
    reference  a bare aiokafka consumer that decodes nothing; for every `--rows` records that it
               has read, a table of as many of the same rows, made beforehand, is inserted
    overlapped the same, reading on while up to two inserts run in threads; for information
    worker     our worker: decodes, validates, hashes, promises, inserts, commits

Time runs from the assignment of partitions to the last insert. Broker, ClickHouse and contender
share two cores. Required: worker >= 15 * naive, >= 0.6 * reference, below 500 MB.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kafka import KafkaProducer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.golden_events import golden_values
from infra.clickhouse.client import connect
from infra.clickhouse.migrate import migrate
from infra.kafka.topics import ensure_topics
from schemas.topics import USAGE
from streams.frugal_memory import allocate_frugally
from tests.support.servers.clickhouse import clickhouse
from tests.support.servers.kafka import kafka

CONTENDERS = ("naive", "reference", "overlapped", "worker")
CORES = {0, 1}
TIMES_NAIVE = 15
OF_REFERENCE = 0.6
RSS_MB_MAX = 500


def main() -> int:
    """Run the bench; 0 if every requirement holds."""
    asked = _arguments()
    if asked.contender:
        asked.result.write_text(json.dumps(_contend(asked)))
        return 0
    os.sched_setaffinity(0, CORES & os.sched_getaffinity(0))
    console = Console(stderr=True)
    with ExitStack() as servers:
        bootstrap = servers.enter_context(kafka())
        url = servers.enter_context(clickhouse())
        bytes_per_event = 0 if asked.filled else fill(bootstrap, asked.events, console)
        results: dict[str, dict[str, Any]] = {}
        for contender in asked.only or CONTENDERS:
            with console.status(f"{contender} runs"):
                results[contender] = _run(contender, bootstrap, url, asked)
    return _report(results, asked, bytes_per_event)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--naive-events", type=int, default=40_000, help="slice for the naive one")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of one insert, for all")
    parser.add_argument("--only", action="append", choices=CONTENDERS)
    parser.add_argument("--profile", type=Path, help="write the worker's profile here")
    parser.add_argument("--filled", action="store_true", help="the topic is filled already")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--kafka", help=argparse.SUPPRESS)
    parser.add_argument("--clickhouse", help=argparse.SUPPRESS)
    return parser.parse_args()


def fill(bootstrap: str, events: int, console: Console) -> int:
    """Fill the topic as our emitter would: lz4, batched; returns the mean bytes of a value."""
    ensure_topics(bootstrap)
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, compression_type="lz4", linger_ms=50, batch_size=262_144
    )
    total = 0
    records = track(golden_values(events), "fill the topic", events, console=console)
    for key, value in records:
        producer.send(USAGE.name, key=key, value=value)
        total += len(value)
    producer.flush()
    producer.close()
    return total // events


def _run(contender: str, bootstrap: str, url: str, asked: argparse.Namespace) -> dict[str, Any]:
    database = f"bench_{contender}"
    migrate(url, database)
    events = asked.naive_events if contender == "naive" else asked.events
    command = [sys.executable, "-m", "bench.ingest", "--contender", contender]
    command += ["--kafka", bootstrap, "--clickhouse", url]
    command += ["--events", str(events), "--rows", str(asked.rows)]
    command += ["--profile", str(asked.profile)] if asked.profile else []
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "result.json"
        command += ["--result", str(written)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1_800)
        if done.returncode or not written.exists():
            raise SystemExit(f"{contender} failed:\n{done.stdout}\n{done.stderr[-4_000:]}")
        result: dict[str, Any] = json.loads(written.read_text())
    with connect(url, database) as client:
        count = "SELECT count(), uniqExact(kafka_partition, kafka_offset) FROM usage_events FINAL"
        ((rows, distinct),) = client.query(count).result_rows
        client.command(f"DROP DATABASE {database} SYNC")
    if contender == "naive":
        result["events"] = rows
    elif not rows == distinct == events:
        raise SystemExit(f"{contender}: {rows} rows, {distinct} distinct, expected {events}")
    return result


def _contend(asked: argparse.Namespace) -> dict[str, Any]:
    # As `rentroll worker` does, for all of them: before Arrow is imported.
    allocate_frugally()
    from bench import ingest_contenders

    contend = getattr(ingest_contenders, asked.contender)
    with tempfile.TemporaryDirectory() as folder:
        seconds = contend(asked, Path(folder))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "events": asked.events,
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_rss_mb": used.ru_maxrss / 1_024,
    }


def _report(
    results: dict[str, dict[str, Any]], asked: argparse.Namespace, bytes_per_event: int
) -> int:
    table = Table(title=f"{asked.events:,} events of {bytes_per_event:,} bytes, 4 partitions")
    for heading in ("contender", "events", "seconds", "events/s", "peak RSS MB", "process CPU s"):
        table.add_column(heading, justify="right")
    rates = {}
    for contender, result in results.items():
        rates[contender] = result["events"] / result["seconds"]
        figures = (result["events"], result["seconds"], rates[contender])
        memory = (result["peak_rss_mb"], result["cpu_seconds"])
        row = (f"{figures[0]:,}", f"{figures[1]:.1f}", f"{figures[2]:,.0f}")
        table.add_row(contender, *row, f"{memory[0]:.0f}", f"{memory[1]:.1f}")
    Console().print(table)
    if set(rates) != set(CONTENDERS):
        return 0
    verdicts = [
        ("worker / naive", rates["worker"] / rates["naive"], TIMES_NAIVE, True),
        ("worker / reference", rates["worker"] / rates["reference"], OF_REFERENCE, True),
        ("worker / overlapped", rates["worker"] / rates["overlapped"], 0, True),
        ("worker peak RSS MB", results["worker"]["peak_rss_mb"], RSS_MB_MAX, False),
    ]
    failed = 0
    for what, figure, bound, at_least in verdicts:
        holds = figure >= bound if at_least else figure < bound
        failed += not holds
        relation = "at least" if at_least else "below"
        print(f"{what}: {figure:.2f} (required: {relation} {bound}) {'ok' if holds else 'MISSED'}")
    return 1 if failed else 0


if __name__ == "__main__":
    started = time.monotonic()
    status = main()
    if "--contender" not in sys.argv:
        print(f"took {time.monotonic() - started:.0f} s in all")
    sys.exit(status)
