"""The three contenders of `bench.ingest`, each timed from its assignment to its last insert."""

import argparse
import asyncio
import cProfile
import os
import signal
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

import aiokafka
import faust
import pyarrow as pa

from bench.golden_events import golden_values
from infra.clickhouse.client import connect
from schemas.ids import content_hash, parse_ms
from schemas.tables import USAGE_EVENTS
from schemas.topics import USAGE
from schemas.usage import EnginePart, RequestFinished, RequestFinishedData
from streams.app import IngestWorker
from streams.clickhouse_sink import ClickHouseSink
from streams.columns import warm_up
from streams.decode import decode
from streams.settings import StreamSettings
from streams.telemetry import log_as_json

PARALLEL_INSERTS = 2


def worker(asked: argparse.Namespace, folder: Path) -> float:
    """Our worker, all of it, until it finds itself idle."""
    passed: dict[str, float] = {}

    def note(step: str) -> None:
        passed[step] = perf_counter()

    log_as_json(quiet=True)
    ingest = IngestWorker(
        StreamSettings(ingest_rows=asked.rows, ingest_group=f"bench-{os.getpid()}"),
        kafka_bootstrap=asked.kafka,
        ledger=ClickHouseSink(asked.clickhouse, "bench_worker"),
        folder=folder,
        topics=(USAGE,),
        hook=note,
    )
    profile = cProfile.Profile() if asked.profile else None
    if profile is not None:
        profile.enable()
    ingest.run(until_idle_s=1)
    if profile is not None:
        profile.disable()
        profile.dump_stats(asked.profile)
    return passed["after-insert"] - passed["joined"]


def reference(asked: argparse.Namespace, _folder: Path) -> float:
    """A bare consumer that only counts, and inserts a table made beforehand when it is due."""
    return _read_and_insert(asked, inserts_in_flight=1)


def overlapped(asked: argparse.Namespace, _folder: Path) -> float:
    """The same, but it reads on while two inserts run: as fast as these two cores can go."""
    return _read_and_insert(asked, inserts_in_flight=PARALLEL_INSERTS + 1)


def _read_and_insert(asked: argparse.Namespace, inserts_in_flight: int) -> float:
    """Read all; with one insert in flight, the next record is read when the insert is done."""
    tables = _tables(asked.events, asked.rows)
    client = connect(asked.clickhouse, f"bench_{asked.contender}")

    async def consume() -> float:
        loop = asyncio.get_running_loop()
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=asked.kafka, auto_offset_reset="earliest", enable_auto_commit=False
        )
        await consumer.start()
        consumer.assign([aiokafka.TopicPartition(USAGE.name, n) for n in range(USAGE.partitions)])
        running: set[asyncio.Future[Any]] = set()
        seen = sent = 0
        started = perf_counter()
        with ThreadPoolExecutor(PARALLEL_INSERTS) as threads:
            while sent < len(tables):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    seen += len(records)
                while sent < len(tables) and seen >= min((sent + 1) * asked.rows, asked.events):
                    insert = partial(
                        client.insert_arrow,
                        USAGE_EVENTS.name,
                        tables[sent],
                        settings={"insert_deduplication_token": f"reference/{sent}"},
                    )
                    running.add(loop.run_in_executor(threads, insert))
                    sent += 1
                    while len(running) >= inserts_in_flight:
                        _, running = await asyncio.wait(
                            running, return_when=asyncio.FIRST_COMPLETED
                        )
            if running:
                await asyncio.wait(running)
        seconds = perf_counter() - started
        await consumer.stop()
        return seconds

    return asyncio.run(consume())


def _tables(events: int, rows: int) -> list[pa.Table]:
    """The rows of the topic as tables of `rows` rows, ready to be inserted."""
    tables = []
    for start in range(0, events, rows):
        values = [value for _, value in golden_values(min(rows, events - start), start)]
        offsets = range(start, start + len(values))
        tables.append(decode(USAGE.name, 0, offsets, values).tables[USAGE_EVENTS])
    return tables


def _record(name: str, fields: dict[str, Any], **nested: Any) -> type[faust.Record]:
    """A Faust model with these fields, as a user would write it by hand."""
    kinds = {field: (str if "Literal" in str(kind) else kind) for field, kind in fields.items()}
    body = {"__annotations__": kinds | nested, "__module__": __name__}
    made: type[faust.Record] = types.new_class(
        name, (faust.Record,), {"serializer": "json"}, lambda space: space.update(body)
    )
    return made


def _annotations(contract: Any) -> dict[str, Any]:
    return {name: field.annotation for name, field in contract.model_fields.items()}


_Part = _record("_Part", _annotations(EnginePart))
_Data = _record("_Data", _annotations(RequestFinishedData), parts=list[_Part])  # type: ignore[valid-type]
_Event = _record("_Event", _annotations(RequestFinished), data=_Data)


def naive(asked: argparse.Namespace, folder: Path) -> float:
    """One Faust event per record, a `faust.Record` each, rows by the driver's usual insert."""
    log_as_json(quiet=True)
    warm_up()
    client = connect(asked.clickhouse, "bench_naive")
    app = faust.App(
        f"bench-naive-{os.getpid()}",
        broker=f"kafka://{asked.kafka}",
        datadir=str(folder),
        web_enabled=False,
        worker_redirect_stdouts=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
    )
    times: dict[str, float] = {}

    @app.on_partitions_assigned.connect(weak=False)  # type: ignore[untyped-decorator,unused-ignore]
    async def joined(*_signal: Any, **_more: Any) -> None:
        times.setdefault("joined", perf_counter())

    @app.agent(app.topic(USAGE.name, value_type=_Event))  # type: ignore[untyped-decorator,unused-ignore]
    async def ingest(stream: Any) -> None:
        rows: list[list[Any]] = []
        inserted = 0
        async for event in stream.events():
            rows.append(_row(event.value, event.message))
            if len(rows) < min(asked.rows, asked.events - inserted):
                continue
            await asyncio.to_thread(
                client.insert, USAGE_EVENTS.name, rows, column_names=USAGE_EVENTS.column_names()
            )
            inserted += len(rows)
            rows = []
            if inserted >= asked.events:
                times["done"] = perf_counter()
                os.kill(os.getpid(), signal.SIGTERM)
                return

    with suppress(SystemExit):
        faust.Worker(
            app, override_logging=False, quiet=True, redirect_stdouts=False
        ).execute_from_commandline()
    return times["done"] - times["joined"]


def _row(event: Any, message: Any) -> list[Any]:
    data = event.data
    values = {
        **{name: getattr(data, name) for name in RequestFinishedData.model_fields},
        "tenant": event.subject,
        "event_time": _instant(event.time),
        "event_id": UUID(event.id),
        "content_hash": content_hash(message.value),
        "source": UUID(event.source),
        "sequence": event.sequence,
        "finished_at": _instant(data.finished_at),
        **{f"parts_{name}": [getattr(part, name) for part in data.parts] for name in _PART_FIELDS},
        "parts_engine": [UUID(part.engine) for part in data.parts],
        "topic": message.topic,
        "kafka_partition": message.partition,
        "kafka_offset": message.offset,
    }
    return [values[name] for name in _COLUMNS]


def _instant(text: str) -> datetime:
    return datetime.fromtimestamp(parse_ms(text) / 1_000, UTC)


_PART_FIELDS = tuple(EnginePart.model_fields)
_COLUMNS = USAGE_EVENTS.column_names()
