"""Counts what is in the Kafka log itself, from its first record to its end, by its own reading.

The ledger is built from the same log by other code; two counts that agree are worth more than one.
"""

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.errors import IngestError
from schemas.topics import USAGE, event_type
from schemas.usage import TOKEN_METERS, RequestFinished

REQUEST_FINISHED = event_type(RequestFinished)
FETCH_TIMEOUT_MS = 1_000
IDLE_FETCHES_MAX = 30
"""Fetches in a row that may come back empty before the end, before the broker counts as gone."""


@dataclass(slots=True)
class LogTotals:
    """Distinct requests in the log, what they used, and how many records were further copies."""

    events: int = 0
    copies: int = 0
    gpu_ns: int = 0
    tokens: Counter[str] = field(default_factory=Counter)


async def count_log(bootstrap: str, sources: Collection[str]) -> LogTotals:
    """Read `usage.v1` from beginning to end and count the finished requests of `sources`.

    Bounded by the log's end as it is when the reading starts. Memory: one id per request.

    Raises:
        IngestError: If the broker stops answering before the end is reached.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        return await _count(consumer, frozenset(sources))
    finally:
        await consumer.stop()


async def _count(consumer: AIOKafkaConsumer, sources: frozenset[str]) -> LogTotals:
    partitions = [TopicPartition(USAGE.name, number) for number in range(USAGE.partitions)]
    consumer.assign(partitions)
    ends = await consumer.end_offsets(partitions)
    totals, seen, idle = LogTotals(), set[str](), 0
    while [one for one in partitions if await consumer.position(one) < ends[one]]:
        fetched = await consumer.getmany(timeout_ms=FETCH_TIMEOUT_MS)
        idle = 0 if fetched else idle + 1
        if idle > IDLE_FETCHES_MAX:
            raise IngestError(f"{USAGE.name}: the broker sends nothing before the log's end")
        for partition, records in fetched.items():
            for record in records:
                if record.offset < ends[partition]:
                    _add(totals, seen, sources, record.value)
    return totals


def _add(totals: LogTotals, seen: set[str], sources: frozenset[str], value: bytes) -> None:
    try:
        event = json.loads(value)
        if event["type"] != REQUEST_FINISHED or event["source"] not in sources:
            return
        used, event_id = event["data"], event["id"]
        if event_id in seen:
            totals.copies += 1
            return
        counted = {meter: int(used[meter]) for meter in TOKEN_METERS}
        gpu_ns = int(used["gpu_ns"])
    except (ValueError, KeyError, TypeError):
        return  # not an event of ours: ingest has sent it to the dead letters
    seen.add(event_id)
    totals.events += 1
    totals.gpu_ns += gpu_ns
    totals.tokens.update(counted)
