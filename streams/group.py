"""The worker's membership in its consumer group, and how it asks and tells the broker."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import aiokafka
import faust
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition
from faust.types import TP

from streams.broker_access import as_aiokafka
from streams.patience import NotNowError

REREAD_TIMEOUT_S = 30


class FencedError(Exception):
    """The group has moved on: this worker no longer owns the partition; caught by the sink."""


class Group:
    """This worker's membership in the consumer group, and its window on the log.

    Every method that asks the broker raises `NotNowError` if the broker does not answer.
    """

    def __init__(self, app: faust.App) -> None:
        # Its consumer is that of our transport, which Faust's types do not know.
        self._app: Any = app

    @property
    def generation(self) -> int:
        """Rises with every rebalance."""
        return int(self._app.consumer_generation_id)

    @property
    def settled(self) -> bool:
        """Whether no rebalance runs."""
        return not self._app.rebalancing

    def assignment(self) -> set[tuple[str, int]]:
        """Partitions that this worker owns."""
        return {(tp.topic, tp.partition) for tp in self._app.consumer.assignment()}

    async def commit(self, topic: str, partition: int, offset: int, metadata: str) -> None:
        """Try once to commit in the current generation.

        Raises:
            FencedError: If the partition has moved on to another owner.
        """
        try:
            place = TP(topic, partition)
            await self._ask("commit_offset", place, offset, metadata, self.generation)
        except (CommitFailedError, IllegalStateError) as error:
            raise FencedError(repr(error)) from error

    async def committed(self, topic: str, partition: int) -> tuple[int, str] | None:
        """The last committed offset and its metadata; None where there is none."""
        found: tuple[int, str] | None = await self._ask("committed_offset", TP(topic, partition))
        return found

    async def log_start(self, topic: str, partition: int) -> int:
        """The first offset that the log still has."""
        found = await self._ask("earliest_offsets_of", [TP(topic, partition)])
        return int(found[topic, partition])

    async def log_ends(self, places: Collection[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The offset after the last record, per partition."""
        found: dict[tuple[str, int], int] = await self._ask(
            "end_offsets_of", [TP(*place) for place in places]
        )
        return found

    async def go_back(self, topic: str, partition: int, offset: int) -> None:
        """Fetch again from `offset`."""
        await self._app.consumer.seek(TP(topic, partition), offset)

    async def reread(self, topic: str, partition: int, offset: int) -> bytes:
        """The value of one record that was read before; for the rare one that is refused late."""
        place = TopicPartition(topic, partition)
        reader = aiokafka.AIOKafkaConsumer(
            **as_aiokafka(self._app.conf.broker_credentials),
            bootstrap_servers=[f"{url.host}:{url.port}" for url in self._app.conf.broker_consumer],
            enable_auto_commit=False,
        )
        try:
            await reader.start()
            reader.assign([place])
            reader.seek(place, offset)
            record = await asyncio.wait_for(reader.getone(), REREAD_TIMEOUT_S)
        except (KafkaError, TimeoutError) as error:
            raise NotNowError(repr(error)) from error
        finally:
            await reader.stop()
        return record.value or b""

    def keep_alive(self) -> None:
        """Call this from a timer, more often than the poll interval; see the transport."""
        self._app.consumer.keep_alive()

    async def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return await self._app.consumer.ask(method, *arguments)
        except (CommitFailedError, IllegalStateError):
            raise
        except KafkaError as error:
            raise NotNowError(repr(error)) from error


class Outbox:
    """Sends records to one topic, acknowledged by all its replicas."""

    def __init__(self, app: faust.App, topic: str) -> None:
        self._topic = app.topic(topic, key_serializer="raw", value_serializer="raw", acks=False)

    async def send(self, records: Sequence[tuple[str, bytes]]) -> None:
        """Send `(key, value)` pairs and wait until the broker has them all.

        Raises:
            NotNowError: If it did not say yes to every one of them.
        """
        try:
            sent = [await self._topic.send(key=key.encode(), value=value) for key, value in records]
            for one in sent:
                await one
        except (KafkaError, TimeoutError) as error:
            raise NotNowError(repr(error)) from error
