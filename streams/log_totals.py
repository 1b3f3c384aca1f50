"""Counts what is in the Kafka log itself, from its first record to its end, by its own reading.

The ledger is built from the same log by other code; two counts that agree are worth more than one.
"""

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.kafka.security import aiokafka_options
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

    def add(self, other: "LogTotals") -> None:
        """Add another's totals."""
        self.events += other.events
        self.copies += other.copies
        self.gpu_ns += other.gpu_ns
        self.tokens.update(other.tokens)


Totals = dict[str, LogTotals]


async def count_log(bootstrap: str, sources: Collection[str]) -> Totals:
    """Read `usage.v1` from beginning to end and count the finished requests of each source.

    Bounded by the log's end as it is when the reading starts. Memory: one id per request.

    Raises:
        IngestError: If the broker stops answering before the end is reached.
    """
    consumer = AIOKafkaConsumer(
        **aiokafka_options(),
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        return await _count(consumer, {source: LogTotals() for source in sources})
    finally:
        await consumer.stop()


async def _count(consumer: AIOKafkaConsumer, totals: Totals) -> Totals:
    partitions = [TopicPartition(USAGE.name, number) for number in range(USAGE.partitions)]
    consumer.assign(partitions)
    ends = await consumer.end_offsets(partitions)
    seen, idle = set[str](), 0
    while [one for one in partitions if await consumer.position(one) < ends[one]]:
        fetched = await consumer.getmany(timeout_ms=FETCH_TIMEOUT_MS)
        idle = 0 if fetched else idle + 1
        if idle > IDLE_FETCHES_MAX:
            raise IngestError(f"{USAGE.name}: the broker sends nothing before the log's end")
        for partition, records in fetched.items():
            for record in records:
                if record.offset < ends[partition]:
                    _add(totals, seen, record.value)
    return totals


def _add(totals: Totals, seen: set[str], value: bytes) -> None:
    try:
        event = json.loads(value)
        if event["type"] != REQUEST_FINISHED or event["source"] not in totals:
            return
        of_source, used, event_id = totals[event["source"]], event["data"], event["id"]
        if event_id in seen:
            of_source.copies += 1
            return
        counted = {meter: int(used[meter]) for meter in TOKEN_METERS}
        gpu_ns = int(used["gpu_ns"])
    except (ValueError, KeyError, TypeError):
        return  # not an event of ours: ingest has sent it to the dead letters
    seen.add(event_id)
    of_source.events += 1
    of_source.gpu_ns += gpu_ns
    of_source.tokens.update(counted)
