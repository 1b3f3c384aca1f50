"""Replay against ingest in one run, on two cores: `python -m bench.replay`.

A 4-partition topic is filled with golden-shaped `request.finished` events. Then, one after the
other and each as its own process, into a database of its own:

    ingest     our worker, from Kafka, until it finds itself idle
    archive    the archiver, from Kafka into a local folder
    replay     the archive into a scratch database, by the same decoder and rows
    from kafka the log into a scratch database, likewise

Broker, ClickHouse and contender share two cores. Required: replay >= 1.0 * ingest. All three
databases must hold the same rows.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.ingest import CORES, fill
from infra.clickhouse.client import connect
from infra.clickhouse.migrate import migrate
from infra.objects.folder import FolderObjects
from infra.stop_request import StopRequest
from schemas.topics import USAGE
from streams.app import IngestWorker
from streams.archive import Archive
from streams.archive_log import GroupLog
from streams.archive_manifest import Head
from streams.archive_worker import Archiver
from streams.clickhouse_sink import ClickHouseSink
from streams.columns import warm_up
from streams.replay_loading import LoadCounters, load
from streams.replay_reading import ArchiveSource, KafkaSource
from streams.settings import StreamSettings
from streams.sink_needs import Place
from streams.telemetry import log_as_json
from tests.support.servers.clickhouse import clickhouse
from tests.support.servers.kafka import kafka

CONTENDERS = ("ingest", "archive", "replay", "from_kafka")
RATIO_MIN = 1.0


class _NoHeads:
    """The bench keeps no billing store."""

    def keep(self, place: Place, head: Head) -> None:
        pass


def ingest(asked: argparse.Namespace) -> float:
    """Our worker, as `bench.ingest` times it."""
    passed: dict[str, float] = {}

    def note(step: str) -> None:
        passed[step] = perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        worker = IngestWorker(
            StreamSettings(ingest_group=f"bench-{os.getpid()}"),
            kafka_bootstrap=asked.kafka,
            ledger=ClickHouseSink(asked.clickhouse, "bench_ingest"),
            folder=Path(folder),
            topics=(USAGE,),
            hook=note,
        )
        worker.run(until_idle_s=1)
    return passed["after-insert"] - passed["joined"]


def archive(asked: argparse.Namespace) -> float:
    """The archiver, from its first fetch to its last entry."""
    settings = StreamSettings()
    passed: list[float] = []

    async def work() -> None:
        group = GroupLog(
            asked.kafka,
            f"bench-archive-{os.getpid()}",
            session_timeout_s=settings.ingest_session_timeout_s,
            heartbeat_s=settings.ingest_heartbeat_s,
            fetch_bytes=settings.ingest_fetch_bytes,
        )
        archiver = Archiver(
            Archive(FolderObjects(asked.archive)),
            group,
            _NoHeads(),
            settings,
            hook=lambda _: passed.append(perf_counter()),
        )
        await archiver.run(
            [USAGE.name],
            StopRequest(),
            until_idle_s=1,
            on_progress=lambda *_: passed.append(perf_counter()) if not passed else None,
        )

    asyncio.run(work())
    return passed[-1] - passed[0]


def replay(asked: argparse.Namespace) -> float:
    """The archive into a database."""
    settings = StreamSettings()
    source = ArchiveSource(Archive(FolderObjects(asked.archive)), settings.replay_rows)
    until = source.ends()
    sink = ClickHouseSink(asked.clickhouse, "bench_replay")
    started = perf_counter()
    batches = source.batches(until, None, older=False)
    load(batches, sink, settings.replay_threads, LoadCounters())
    return perf_counter() - started


def from_kafka(asked: argparse.Namespace) -> float:
    """The log into a database, without a group."""
    settings = StreamSettings()
    source = KafkaSource(asked.kafka, settings.replay_rows, settings.ingest_fetch_bytes)
    sink = ClickHouseSink(asked.clickhouse, "bench_from_kafka")
    started = perf_counter()
    ranges = source.bounds([USAGE.name])
    load(source.ranges(ranges), sink, settings.replay_threads, LoadCounters())
    return perf_counter() - started


def main() -> int:
    """Run the bench; 0 if replay is fast enough and every database holds the same."""
    asked = _arguments()
    if asked.contender:
        asked.result.write_text(json.dumps(_contend(asked)))
        return 0
    os.sched_setaffinity(0, CORES & os.sched_getaffinity(0))
    console = Console(stderr=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bootstrap = stack.enter_context(kafka())
        url = stack.enter_context(clickhouse())
        value_bytes = fill(bootstrap, asked.events, console)
        results = {}
        for contender in CONTENDERS:
            with console.status(f"{contender} runs"):
                results[contender] = _run(contender, bootstrap, url, folder, asked)
        files = [path.stat().st_size for path in (folder / "archive").rglob("*.parquet")]
    return _report(results, asked.events, value_bytes, files)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--archive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kafka", help=argparse.SUPPRESS)
    parser.add_argument("--clickhouse", help=argparse.SUPPRESS)
    return parser.parse_args()


def _contend(asked: argparse.Namespace) -> dict[str, float]:
    log_as_json(quiet=True)
    warm_up()
    contenders: dict[str, Callable[[argparse.Namespace], float]] = {
        "ingest": ingest,
        "archive": archive,
        "replay": replay,
        "from_kafka": from_kafka,
    }
    seconds = contenders[asked.contender](asked)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_rss_mb": used.ru_maxrss / 1_024,
    }


def _run(
    contender: str, bootstrap: str, url: str, folder: Path, asked: argparse.Namespace
) -> dict[str, Any]:
    database = f"bench_{contender}"
    written = folder / f"{contender}.json"
    if contender != "archive":
        migrate(url, database)
    command = [sys.executable, "-m", "bench.replay", "--contender", contender]
    command += ["--kafka", bootstrap, "--clickhouse", url, "--archive", str(folder / "archive")]
    command += ["--result", str(written)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1_800)
    if done.returncode or not written.exists():
        raise SystemExit(f"{contender} failed:\n{done.stdout}\n{done.stderr[-4_000:]}")
    result: dict[str, Any] = json.loads(written.read_text())
    if contender == "archive":
        return result
    with connect(url, database) as client:
        ((result["rows"], result["digest"]),) = client.query(
            "SELECT count(), sum(sipHash64(content_hash, kafka_partition, kafka_offset, gpu_ns))"
            " FROM usage_events FINAL"
        ).result_rows
        client.command(f"DROP DATABASE {database} SYNC")
    return result


def _report(
    results: dict[str, dict[str, Any]], events: int, value_bytes: int, files: list[int]
) -> int:
    table = Table(
        title=f"{events:,} events of {value_bytes:,} bytes, {USAGE.partitions} partitions"
    )
    for heading in ("contender", "seconds", "events/s", "peak RSS MB", "process CPU s"):
        table.add_column(heading, justify="right")
    for contender, result in results.items():
        table.add_row(
            contender,
            f"{result['seconds']:.1f}",
            f"{events / result['seconds']:,.0f}",
            f"{result['peak_rss_mb']:.0f}",
            f"{result['cpu_seconds']:.1f}",
        )
    Console().print(table)
    print(f"archive: {len(files)} files, {sum(files) / events:.0f} bytes per event")
    ingest_s = results["ingest"]["seconds"]
    ratios = {name: ingest_s / results[name]["seconds"] for name in ("replay", "from_kafka")}
    same = len({results[name]["digest"] for name in ("ingest", *ratios)}) == 1
    whole = all(results[name]["rows"] == events for name in ("ingest", *ratios))
    holds = ratios["replay"] >= RATIO_MIN
    verdict = "ok" if holds else "MISSED"
    print(f"replay / ingest: {ratios['replay']:.2f} (required: at least {RATIO_MIN}) {verdict}")
    print(f"replay from kafka / ingest: {ratios['from_kafka']:.2f}")
    print(f"the same rows in all three databases: {'yes' if same and whole else 'NO'}")
    return 0 if holds and same and whole else 1


if __name__ == "__main__":
    sys.exit(main())
