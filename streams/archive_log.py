"""The Kafka log as raw records, by plain aiokafka consumers: in a group of its own, or by range.

The batch transport of ingest drops what the archive must keep: keys, timestamps, headers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
)

from infra.kafka.security import aiokafka_options
from schemas.errors import IngestError
from streams.archive_records import RawRecords
from streams.patience import NotNowError
from streams.record_batch import RecordBatch
from streams.sink_needs import Place

IDLE_FETCHES_MAX = 30
"""Fetches in a row that may come back empty before a range's end: then the broker is gone."""
FETCH_TIMEOUT_MS = 500
_FETCH_MAX_BYTES = 32 * 2**20


class GroupLog:
    """A membership in the archiver's group. Methods raise `NotNowError` if the broker is away."""

    def __init__(
        self,
        bootstrap: str,
        group: str,
        *,
        session_timeout_s: int,
        heartbeat_s: int,
        fetch_bytes: int,
    ) -> None:
        self._consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=session_timeout_s * 1_000,
            heartbeat_interval_ms=heartbeat_s * 1_000,
            # Files are written between two fetches, and storage may be away for long.
            max_poll_interval_ms=24 * 3_600_000,
            max_partition_fetch_bytes=fetch_bytes,
            fetch_max_bytes=_FETCH_MAX_BYTES,
            **aiokafka_options(),
        )

    async def start(
        self,
        topics: Sequence[str],
        on_assigned: Callable[[list[Place]], None],
        on_revoked: Callable[[list[Place]], None],
    ) -> None:
        """Join; the callbacks run whenever the group moves. What is assigned starts paused."""

        class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
            async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
                on_revoked([(one.topic, one.partition) for one in revoked])

            async def on_partitions_assigned(_, assigned: Collection[Any]) -> None:  # noqa: N805
                self._consumer.pause(*assigned)
                on_assigned([(one.topic, one.partition) for one in assigned])

        self._consumer.subscribe(list(topics), listener=Listener())
        try:
            await self._consumer.start()
        except KafkaError as error:
            raise NotNowError(repr(error)) from error

    async def stop(self) -> None:
        await self._consumer.stop()

    async def fetch(self) -> dict[Place, RawRecords]:
        """What came; nothing after half a second of silence."""
        try:
            found = await self._consumer.getmany(timeout_ms=FETCH_TIMEOUT_MS)
        except KafkaError as error:
            raise NotNowError(repr(error)) from error
        return {(tp.topic, tp.partition): _columns(records) for tp, records in found.items()}

    def read_from(self, place: Place, offset: int) -> None:
        """Fetch this partition, from `offset` on."""
        self._consumer.seek(TopicPartition(*place), offset)
        self._consumer.resume(TopicPartition(*place))

    async def bounds(self, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
        """The first offset that the log still has, and the one behind its last, per partition."""
        return await _bounds(self._consumer, places)

    async def commit(self, place: Place, offset: int) -> None:
        """Say how far the archive is, for whoever watches the group's lag; nothing rests on it."""
        try:
            await self._consumer.commit({TopicPartition(*place): offset})
        except (CommitFailedError, IllegalStateError, KafkaError) as error:
            raise NotNowError(repr(error)) from error


async def read_range(
    bootstrap: str, ranges: dict[Place, tuple[int, int]], fetch_bytes: int
) -> AsyncIterator[RecordBatch]:
    """Every record of each partition's `[start, end)` that the log still has.

    Raises:
        IngestError: If the broker stops answering before the end, or has some of it no more.
    """
    wanted = {TopicPartition(*place): (start, end) for place, (start, end) in ranges.items()}
    wanted = {tp: (start, end) for tp, (start, end) in wanted.items() if start < end}
    if not wanted:
        return
    consumer: Any = _reader(bootstrap, fetch_bytes)
    await _started(consumer, bootstrap)
    try:
        consumer.assign(list(wanted))
        for tp, (start, _) in wanted.items():
            consumer.seek(tp, start)
        while wanted:
            for batch in await _fetch_wanted(consumer, wanted):
                yield batch
    except OffsetOutOfRangeError as error:
        raise IngestError(f"the broker has no more what is to be read: {error}") from error
    except KafkaError as error:
        raise IngestError(f"Kafka at {bootstrap}: {error!r}") from error
    finally:
        await consumer.stop()


async def _fetch_wanted(consumer: Any, wanted: dict[Any, tuple[int, int]]) -> list[RecordBatch]:
    """What one fetch brings; takes out of `wanted` what is read to its end."""
    found: dict[Any, list[Any]] = {}
    for _ in range(IDLE_FETCHES_MAX):
        found = await consumer.getmany(*wanted, timeout_ms=FETCH_TIMEOUT_MS)
        if found:
            break
    batches = []
    for tp, records in found.items():
        start, end = wanted[tp]
        batch = _batch(tp, start, end, [one for one in records if one.offset < end])
        wanted[tp] = (batch.end, end)
        if batch.offsets:
            batches.append(batch)
    read = [tp for tp, (_, end) in wanted.items() if await consumer.position(tp) >= end]
    for tp in read:
        del wanted[tp]
        consumer.pause(tp)
    if not found and not read:
        left = ", ".join(f"{tp.topic}/{tp.partition}" for tp in wanted)
        raise IngestError(f"the broker sends nothing before the end of {left}")
    return batches


async def log_bounds(bootstrap: str, topics: Collection[str]) -> dict[Place, tuple[int, int]]:
    """First offset, and the one behind the last, of each partition that the topics have.

    Raises:
        IngestError: If the broker does not answer.
    """
    # Only a client that wants a topic learns of its partitions.
    consumer = _reader(bootstrap, 2**16, topics)
    await _started(consumer, bootstrap)
    try:
        places = [
            (topic, partition)
            for topic in sorted(topics)
            for partition in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        return await _bounds(consumer, places)
    except NotNowError as error:
        raise IngestError(f"Kafka at {bootstrap}: {error}") from error
    finally:
        await consumer.stop()


async def offsets_at(bootstrap: str, places: Sequence[Place], time_ms: int) -> dict[Place, int]:
    """Per partition the first offset that the broker took at `time_ms` or later.

    A partition without such a record is left out.

    Raises:
        IngestError: If the broker does not answer.
    """
    consumer = _reader(bootstrap, 2**16)
    await _started(consumer, bootstrap)
    try:
        asked = {TopicPartition(*place): time_ms for place in places}
        found = await consumer.offsets_for_times(asked)
    except KafkaError as error:
        raise IngestError(f"Kafka at {bootstrap}: {error!r}") from error
    finally:
        await consumer.stop()
    return {(tp.topic, tp.partition): one.offset for tp, one in found.items() if one is not None}


async def _started(consumer: Any, bootstrap: str) -> None:
    try:
        await consumer.start()
    except KafkaError as error:
        await consumer.stop()
        raise IngestError(f"Kafka at {bootstrap}: {error!r}") from error
    # A consumer stopped before its own task has begun passes on that task's cancellation.
    await asyncio.sleep(0)


def _reader(bootstrap: str, fetch_bytes: int, topics: Collection[str] = ()) -> Any:
    return AIOKafkaConsumer(
        *topics,
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        # Who reads ranges seeks first; what is gone must not be passed over.
        auto_offset_reset="latest" if topics else "none",
        max_partition_fetch_bytes=fetch_bytes,
        fetch_max_bytes=_FETCH_MAX_BYTES,
        **aiokafka_options(),
    )


async def _bounds(consumer: Any, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
    asked = [TopicPartition(*place) for place in places]
    if not asked:
        return {}
    try:
        starts = await consumer.beginning_offsets(asked)
        ends = await consumer.end_offsets(asked)
    except KafkaError as error:
        raise NotNowError(repr(error)) from error
    return {(tp.topic, tp.partition): (starts[tp], ends[tp]) for tp in asked}


def _columns(records: Sequence[Any]) -> RawRecords:
    return RawRecords(
        [one.offset for one in records],
        [one.timestamp for one in records],
        [one.timestamp_type for one in records],
        [one.key for one in records],
        [one.value for one in records],
        [one.headers for one in records],
        sum(len(one.value or b"") + len(one.key or b"") for one in records),
    )


def _batch(tp: Any, start: int, log_end: int, records: Sequence[Any]) -> RecordBatch:
    return RecordBatch(
        topic=tp.topic,
        partition=tp.partition,
        start=start,
        end=records[-1].offset + 1 if records else start,
        log_end=log_end,
        offsets=[one.offset for one in records],
        values=[one.value for one in records],
    )
