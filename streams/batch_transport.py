"""Faust transport whose topics arrive as record batches: one event per partition fetch.

Stock Faust spends its time on asyncio work per event. Here the consumer thread drains the
broker's own record batches into lists, and an agent gets one `RecordBatch` per partition and
fetch; groups, rebalances, timers and the producer stay Faust's.

This is the only file that touches private names of Faust and aiokafka, so both are pinned
exactly. `PRIVATE_NAMES` lists every such name, and a contract test says which one is gone.
Two more things the stock consumer cannot do live here: commits with metadata, and a sign of
life while back-pressure keeps it from polling.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from time import monotonic
from typing import Any

import faust
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.errors import (
    CommitFailedError,
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalGenerationError,
    KafkaTimeoutError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from streams.record_batch import RecordBatch

PRIVATE_NAMES = {
    "aiokafka.consumer.consumer:AIOKafkaConsumer": (
        "_client",
        "_closed",
        "_coordinator",
        "_fetcher",
        "_subscription",
    ),
    "aiokafka.consumer.fetcher:Fetcher": (
        "_closed",
        "_create_fetch_waiter",
        "_notify",
        "_records",
        "_subscriptions",
        "_wait_consume_future",
    ),
    "aiokafka.consumer.fetcher:FetchResult": (
        "_partition_records",
        "_update_position",
        "check_assignment",
        "has_more",
    ),
    "aiokafka.consumer.fetcher:PartitionRecords": ("_check_crcs", "_records", "next_fetch_offset"),
    "aiokafka.consumer.group_coordinator:GroupCoordinator": (
        "_do_commit_offsets",
        "ensure_coordinator_known",
        "fetch_committed_offsets",
    ),
    "aiokafka.consumer.subscription_state:SubscriptionState": (
        "_last_fetch_ended",
        "fetch_context",
        "is_assigned",
        "reassignment_in_progress",
        "subscription",
        "wait_for_assignment",
    ),
    "faust.app.base:App": ("consumer_generation_id", "rebalancing"),
    "faust.transport.consumer:ThreadDelegateConsumer": (
        "_acked",
        "_acked_index",
        "_add_gap",
        "_getmany",
        "_new_consumer_thread",
        "_new_offset",
        "_thread",
        "_to_message",
        "flow_active",
    ),
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread": (
        "_consumer",
        "_ensure_consumer",
        "_fetch_records",
        "call_thread",
    ),
}
"""Every private (or undocumented) name this file uses, by the class that has it."""


_BUFFER_CHECK_S = 0.01
_COORDINATOR_WAIT_S = 10


class _BatchSchema(faust.Schema[Any, Any]):
    """Hands a batch to the agent untouched."""

    def compile(self, app: Any, **_codecs: Any) -> Callable[..., Awaitable[Any]]:
        create_event = app.create_event

        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return create_event(None, message.value, None, message)

        return decode


class _BatchThread(driver.AIOKafkaConsumerThread):
    """The thread that owns the aiokafka consumer."""

    consumer: "_BatchConsumer"

    async def on_thread_stop(self) -> None:
        """Stop, also where aiokafka stumbles over itself.

        A fetcher that is closed while it retries, for the broker is down, passes on the
        cancellation that it asked for; Faust would then wait a minute for this thread.
        """
        try:
            await super().on_thread_stop()
        except asyncio.CancelledError:
            await self._ensure_consumer()._client.close()

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Collection[Any],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> dict[Any, list[Any]]:
        if not self.consumer.flow_active:
            return {}
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        with fetcher._subscriptions.fetch_context():
            if self.consumer.transport.grouped:
                assigned = filter(fetcher._subscriptions.is_assigned, active_partitions)
                starts = {tp: await consumer.position(tp) for tp in assigned}
                records = await fetcher.fetched_records(
                    active_partitions, timeout=timeout, max_records=max_records
                )
                return {
                    tp: [_group(tp, starts[tp], consumer.highwater(tp) or 0, found)]
                    for tp, found in records.items()
                    if tp in starts and fetcher._subscriptions.is_assigned(tp)
                }
            return await self._fetch_batches(fetcher, active_partitions, timeout or 0)

    async def _fetch_batches(
        self, fetcher: Any, active: Collection[Any], timeout_s: float
    ) -> dict[Any, list[RecordBatch]]:
        """What `Fetcher.fetched_records` does, without an object per record."""
        deadline = monotonic() + timeout_s
        while True:
            if fetcher._subscriptions.reassignment_in_progress:
                await fetcher._subscriptions.wait_for_assignment()
            batches = self._take_fetched(fetcher, active)
            left_s = deadline - monotonic()
            if batches or left_s <= 0:
                return batches
            waiter = fetcher._create_fetch_waiter()
            done, pending = await asyncio.wait([waiter], timeout=left_s)
            if not done or fetcher._closed:
                for future in pending:
                    future.cancel()
                return {}
            waiter.result()

    def _take_fetched(self, fetcher: Any, active: Collection[Any]) -> dict[Any, list[RecordBatch]]:
        """The batch that was fetched first, by its partition; nothing where there is none."""
        for tp in list(fetcher._records):
            if not fetcher._subscriptions.is_assigned(tp):
                # Taken away, or a session that ended while the broker was silent.
                del fetcher._records[tp]
                continue
            if active and tp not in active:
                continue
            fetched = fetcher._records[tp]
            if type(fetched) is not FetchResult:
                del fetcher._records[tp]
                fetcher._notify(fetcher._wait_consume_future)
                fetched.check_raise()
                continue
            try:
                batch = _drain(tp, fetched, self._ensure_consumer().highwater(tp) or 0)
            finally:
                # Drained, or damaged: either way the fetcher asks the broker again.
                del fetcher._records[tp]
                fetcher._notify(fetcher._wait_consume_future)
            if batch is not None:
                # One at a time: what is left with the fetcher is compressed.
                return {tp: [batch]}
        return {}

    async def commit_offset(self, tp: TP, offset: int, metadata: str, generation: int) -> None:
        """Commit in one attempt, and in no generation of the group but this one.

        aiokafka's own `commit` repeats itself for ever, in later generations too: a boundary
        could overwrite what a new owner has committed since.

        Raises:
            CommitFailedError: If the group has moved on.
            KafkaError: If the broker did not take it.
        """
        consumer = self._ensure_consumer()
        coordinator = consumer._coordinator
        try:
            async with asyncio.timeout(_COORDINATOR_WAIT_S):
                await coordinator.ensure_coordinator_known()
        except TimeoutError as error:
            raise KafkaTimeoutError("no broker coordinates the group") from error
        place = TopicPartition(*tp)
        if (
            self.consumer.group_moved_on
            or coordinator.generation != generation
            or not consumer._subscription.is_assigned(place)
        ):
            raise CommitFailedError(f"{tp.topic}/{tp.partition} was of generation {generation}")
        self.tp_last_committed_at[tp] = monotonic()
        boundary = {place: OffsetAndMetadata(offset, metadata)}
        try:
            assignment = consumer._subscription.subscription.assignment
            await coordinator._do_commit_offsets(assignment, boundary)
        except (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError) as error:
            raise CommitFailedError(f"{tp.topic}/{tp.partition} is taken away") from error

    async def committed_offset(self, tp: TP) -> tuple[int, str] | None:
        coordinator = self._ensure_consumer()._coordinator
        found = await coordinator.fetch_committed_offsets([TopicPartition(*tp)])
        committed = found.get(TopicPartition(*tp))
        if committed is None or committed.offset < 0:
            return None
        return committed.offset, committed.metadata or ""

    async def earliest_offsets_of(self, tps: list[TP]) -> dict[tuple[str, int], int]:
        found = await self._ensure_consumer().beginning_offsets([TopicPartition(*tp) for tp in tps])
        return {(tp.topic, tp.partition): offset for tp, offset in found.items()}

    async def end_offsets_of(self, tps: list[TP]) -> dict[tuple[str, int], int]:
        found = await self._ensure_consumer().end_offsets([TopicPartition(*tp) for tp in tps])
        return {(tp.topic, tp.partition): offset for tp, offset in found.items()}


class _BatchConsumer(driver.Consumer):
    """Wraps a batch in one message; leaves commits to whoever owns the boundaries."""

    transport: "_BatchTransport"
    group_moved_on = False
    """Whether it did so while the app stops: nothing is committed from then on."""

    def close(self) -> None:
        """Note that the group moves on while the app stops.

        Faust closes aiokafka's client here, from a thread that does not own it: heartbeats would
        then fail for ever in a loop without a pause, and a commit would never be answered. The
        client is closed when the consumer's thread stops.
        """
        self.group_moved_on = True

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        """Fetch once the agents have taken most of what was fetched before.

        Faust's own back-pressure counts partitions, not records, and sleeps a whole second
        whenever the last of them is full: long enough to leave a fast agent idle.
        """
        while self.flow_active and not self.should_stop and self._enough_is_buffered():
            await asyncio.sleep(_BUFFER_CHECK_S)
        return await super()._getmany(active_partitions, timeout)

    def _enough_is_buffered(self) -> bool:
        queued = (channel.queue.qsize() for channel in self.app.topics)
        return max(queued, default=0) >= self.transport.buffered_batches

    def _new_consumer_thread(self) -> _BatchThread:
        return _BatchThread(self, loop=self.loop, beacon=self.beacon)

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the consumer's thread in that thread."""
        return await self._thread.call_thread(getattr(self._thread, method), *arguments)

    def keep_alive(self) -> None:
        """Look alive although nothing is polled.

        Back-pressure keeps Faust from polling; aiokafka would take that for a dead poller,
        leave the group and, with Faust's flow stopped, never come back.
        """
        consumer = self._thread._consumer
        if consumer is not None:
            consumer._subscription._last_fetch_ended = monotonic()

    def _to_message(self, tp: Any, record: Any) -> ConsumerMessage:
        batch: RecordBatch = record
        return ConsumerMessage(
            topic=batch.topic,
            partition=batch.partition,
            offset=batch.end - 1,
            timestamp=0.0,
            timestamp_type=0,
            headers=None,
            key=None,
            value=batch,  # type: ignore[arg-type]
            checksum=None,
            serialized_key_size=0,
            serialized_value_size=0,
            tp=TP(tp.topic, tp.partition),
            generation_id=self.app.consumer_generation_id,
        )

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets between two messages are the records inside the batch, not gaps."""

    def _new_offset(self, tp: TP) -> int | None:
        """Nothing for Faust to commit, ever: its offsets know nothing of what was inserted."""
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        return None


class _BatchTransport(driver.Transport):
    Consumer = _BatchConsumer
    buffered_batches = 1
    grouped = False


def install(app: faust.App, *, buffered_batches: int, grouped: bool = False) -> None:
    """Make every topic of `app` arrive as record batches; call it before anything is declared.

    Args:
        app: The app.
        buffered_batches: No more is fetched while so many batches of one topic wait.
        grouped: Let aiokafka build its record objects and group those. Slower (131,000 to
            159,000 events/s against 212,000 per core), for when its private names have moved.
    """
    transport = _BatchTransport(app.conf.broker_consumer, app)
    transport.buffered_batches = buffered_batches
    transport.grouped = grouped
    app.transport = transport


def batch_topic(app: faust.App, name: str) -> Any:
    """A topic whose agent receives `RecordBatch` values."""
    return app.topic(name, schema=_BatchSchema(), acks=False)


def _group(tp: Any, start: int, log_end: int, records: list[Any]) -> RecordBatch:
    return RecordBatch(
        topic=tp.topic,
        partition=tp.partition,
        start=start,
        end=records[-1].offset + 1,
        log_end=log_end,
        offsets=[record.offset for record in records],
        values=[record.value for record in records],
    )


def _drain(tp: Any, fetched: Any, log_end: int) -> RecordBatch | None:
    """Read values straight out of the broker's record batches.

    Raises:
        CorruptRecordException: If a checksum is wrong; the fetch is repeated.
    """
    if not fetched.has_more() or not fetched.check_assignment(tp):
        return None
    partition_records = fetched._partition_records
    remaining = partition_records._records
    start = position = partition_records.next_fetch_offset
    offsets: list[int] = []
    values: list[bytes | None] = []
    while remaining.has_next():
        batch = remaining.next_batch()
        if partition_records._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"{tp.topic}/{tp.partition}: wrong checksum at {position}")
        if not batch.is_control_batch:
            # A broker sends whole batches: the first may begin before what was asked for.
            records = [record for record in batch if record.offset >= position]
            offsets += [record.offset for record in records]
            values += [record.value for record in records]
        position = batch.next_offset
    partition_records.next_fetch_offset = position
    fetched._update_position()
    fetched._partition_records = None
    if not offsets:
        return None
    return RecordBatch(tp.topic, tp.partition, start, position, log_end, offsets, values)
