"""Publishes outboxes to Kafka; the only file that imports the Kafka producer.

At least once: an event leaves its outbox only when every in-sync replica has it, and whatever is
sent twice is the same bytes under the same id. An idempotent producer that lets one batch expire
sends nothing more, for good, so batches practically never expire here; a watchdog that finds the
oldest unacknowledged record too old throws the producer away and sends again from there.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kafka import KafkaProducer
from kafka.errors import KafkaError

from inference.outbox import OutboxReader, OutboxRow
from inference.outbox_file import OUTBOX_FILE
from inference.settings import InferenceSettings
from infra.kafka.admin import in_our_words, in_words
from infra.kafka.probe import serves, trouble
from infra.kafka.security import KafkaSecurity, kafka_python_options, kafka_security
from schemas.errors import ServerError, SpoolError

_LINGER_MS = 50
_BATCH_BYTES = 262_144
_REQUEST_TIMEOUT_MS = 30_000
_DELIVERY_TIMEOUT_MS = 2_000_000_000
"""23 days: the watchdog acts long before. An expired batch would wedge the producer."""
_SEND_BLOCK_MS = 5_000
_READ_ROWS = 500
_ACKNOWLEDGE_ROWS = 2_000
_WAIT_S = 0.01
_RETRY_S = 0.5
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class PublishedCounts:
    """What Kafka acknowledged; `resent` counts sends beyond the first, after a rebuild."""

    by_topic: dict[str, int] = field(default_factory=dict)
    value_bytes: int = 0
    resent: int = 0
    rebuilds: int = 0

    @property
    def records(self) -> int:
        """Records of all topics."""
        return sum(self.by_topic.values())


@dataclass(slots=True)
class _Sent:
    topic: str
    size_bytes: int
    sent_s: float


@dataclass(slots=True)
class _Feed:
    """One outbox: how far it was sent, and what is still unacknowledged, oldest first."""

    reader: OutboxReader
    sent_to: int = 0
    highest: int = 0
    in_flight: dict[int, _Sent] = field(default_factory=dict)
    acknowledged: list[int] = field(default_factory=list)


class _Producer(KafkaProducer):
    """kafka-python's producer, whose end does not hang on a broker."""

    def flush(self, timeout: float | None = None) -> None:
        """Wait for nothing: what is unacknowledged is sent again by the next producer.

        `close(timeout=0)` flushes first, and gives up there by an exception where anything is in
        flight: its thread would live on, and ours end.
        """


class Publisher:
    """Sends what is in outboxes; call `step` until it is `idle`, or for as long as they grow."""

    def __init__(
        self,
        folders: Sequence[Path],
        bootstrap: str,
        settings: InferenceSettings,
        security: KafkaSecurity | None = None,
    ) -> None:
        self._bootstrap = bootstrap
        self._security = kafka_security() if security is None else security
        self._settings = settings
        self._feeds = [_Feed(OutboxReader(folder)) for folder in folders]
        self._producer: KafkaProducer | None = None
        self._generation = 0
        self._in_flight_bytes = 0
        self._acks: deque[tuple[int, int]] = deque()
        self._failures: deque[tuple[int, BaseException]] = deque()
        self._last_ack_s = time.monotonic()
        self._retry_s = 0.0
        self._last_error = "no acknowledgement"
        self.counts = PublishedCounts()

    def add(self, folder: Path) -> None:
        """Publish this outbox too."""
        self._feeds.append(_Feed(OutboxReader(folder)))

    @property
    def idle(self) -> bool:
        """Whether everything that was in the outboxes at the last step is acknowledged."""
        return not any(feed.in_flight or feed.acknowledged for feed in self._feeds)

    def step(self) -> int:
        """Send what there is room for, take in acknowledgements, act on failures.

        Returns:
            How many records were sent; 0 with `idle` means that nothing is left.

        Raises:
            ServerError: If nothing was acknowledged for `publish_timeout_s`.
        """
        self._take_acknowledgements()
        self._watch()
        sent = self._send() if time.monotonic() >= self._retry_s else 0
        if not sent:
            self._release(everything=True)
            if not self.idle or self._retry_s:
                time.sleep(_WAIT_S)
        return sent

    def unpublished(self) -> int:
        """Events in the outboxes that Kafka has not acknowledged."""
        return sum(feed.reader.unpublished() for feed in self._feeds)

    def close(self) -> None:
        """Let go of the producer and the outboxes; what is unacknowledged stays in them."""
        self._drop_producer()
        for feed in self._feeds:
            feed.reader.close()

    def _send(self) -> int:
        sent = 0
        for number, feed in enumerate(self._feeds):
            if not self._has_room():
                break
            rows = feed.reader.read(feed.sent_to, _READ_ROWS)
            if not rows:
                continue
            if self.idle and not self._retry_s:
                # Nothing was asked of Kafka until now, so its silence counts from here.
                self._last_ack_s = time.monotonic()
            try:
                for row in rows:
                    self._send_row(number, feed, row)
                    sent += 1
            except (KafkaError, ServerError, OSError) as error:
                self._failures.append((self._generation, error))
                break
        return sent

    def _send_row(self, number: int, feed: _Feed, row: OutboxRow) -> None:
        if self._producer is None:
            self._producer = self._new_producer()
        future = self._producer.send(row.topic, key=row.key, value=row.value)
        feed.in_flight[row.sequence] = _Sent(row.topic, len(row.value), time.monotonic())
        self._in_flight_bytes += len(row.value)
        self.counts.resent += row.sequence <= feed.highest
        feed.sent_to = row.sequence
        feed.highest = max(feed.highest, row.sequence)
        future.add_callback(partial(self._on_ack, number, row.sequence))
        future.add_errback(partial(self._on_failure, self._generation))

    def _on_ack(self, number: int, sequence: int, _metadata: object) -> None:
        """On the producer's thread: a deque takes it without a lock."""
        self._acks.append((number, sequence))

    def _on_failure(self, generation: int, error: BaseException) -> None:
        self._failures.append((generation, error))

    def _has_room(self) -> bool:
        records = sum(len(feed.in_flight) for feed in self._feeds)
        return (
            records < self._settings.publish_in_flight_records
            and self._in_flight_bytes < self._settings.publish_in_flight_bytes
        )

    def _take_acknowledgements(self) -> None:
        while self._acks:
            number, sequence = self._acks.popleft()
            feed = self._feeds[number]
            sent = feed.in_flight.pop(sequence, None)
            if sent is None:
                continue
            feed.acknowledged.append(sequence)
            self._in_flight_bytes -= sent.size_bytes
            topics = self.counts.by_topic
            topics[sent.topic] = topics.get(sent.topic, 0) + 1
            self.counts.value_bytes += sent.size_bytes
            self._last_ack_s = time.monotonic()
            self._retry_s = 0.0
        self._release(everything=False)

    def _release(self, *, everything: bool) -> None:
        """Delete what is acknowledged, many rows to a transaction."""
        for feed in self._feeds:
            if feed.acknowledged and (everything or len(feed.acknowledged) >= _ACKNOWLEDGE_ROWS):
                feed.reader.acknowledge(feed.acknowledged)
                feed.acknowledged = []

    def _watch(self) -> None:
        """Replace a producer that failed or is stuck; give up where nothing helps."""
        while self._failures:
            generation, error = self._failures.popleft()
            if generation == self._generation:
                self._tell(in_words(error, self._security))
                self._rebuild()
        now_s = time.monotonic()
        oldest_s = min(
            (next(iter(feed.in_flight.values())).sent_s for feed in self._feeds if feed.in_flight),
            default=now_s,
        )
        if now_s - oldest_s > self._settings.publish_stuck_s:
            self._tell(f"no acknowledgement for {self._settings.publish_stuck_s} s")
            self._rebuild()
        waiting = not self.idle or self._retry_s > 0
        if waiting and now_s - self._last_ack_s > self._settings.publish_timeout_s:
            raise ServerError(
                f"Kafka at {self._bootstrap} acknowledged nothing for"
                f" {self._settings.publish_timeout_s} s ({self._last_error}); what is"
                " unacknowledged stays in the outbox",
            )

    def _tell(self, error: str) -> None:
        """Keep what went wrong, and say it once: it may stay so for hours."""
        if error != self._last_error:
            _log.warning("publishing waits: %s", error)
        self._last_error = error

    def _rebuild(self) -> None:
        """Throw the producer away and send again from the oldest unacknowledged record."""
        self._drop_producer()
        self._generation += 1
        self.counts.rebuilds += 1
        self._retry_s = time.monotonic() + _RETRY_S
        for feed in self._feeds:
            if feed.in_flight:
                feed.sent_to = min(feed.in_flight) - 1
                feed.in_flight.clear()
        self._in_flight_bytes = 0

    def _drop_producer(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=0)
            self._producer = None

    def _new_producer(self) -> KafkaProducer:
        """Asked for first: a producer that finds no broker leaks its sockets as it fails."""
        if not serves(self._bootstrap, security=self._security):
            found = trouble(self._bootstrap, self._security)
            raise ConnectionError(found.text if found else f"no broker serves at {self._bootstrap}")
        with in_our_words(self._bootstrap, self._security):
            return _Producer(
                **kafka_python_options(self._security),
                bootstrap_servers=self._bootstrap,
                enable_idempotence=True,
                acks="all",
                compression_type="lz4",
                linger_ms=_LINGER_MS,
                batch_size=_BATCH_BYTES,
                request_timeout_ms=_REQUEST_TIMEOUT_MS,
                delivery_timeout_ms=_DELIVERY_TIMEOUT_MS,
                max_block_ms=_SEND_BLOCK_MS,
                bootstrap_timeout_ms=_SEND_BLOCK_MS,
            )


def outbox_folders(folder: Path) -> list[Path]:
    """Folders at or below `folder` that hold an outbox."""
    return sorted(path.parent for path in folder.rglob(OUTBOX_FILE))


def publish_outboxes(
    folder: Path,
    bootstrap: str,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
    settings: InferenceSettings | None = None,
) -> PublishedCounts:
    """Publish every outbox below `folder` until all of it is acknowledged.

    Args:
        folder: Such as `Emitted.folder`.
        bootstrap: Kafka, `host:port[,host:port]`.
        on_progress: Called with "publishing", the records acknowledged so far, and all of them.
        settings: Bounds and timeouts.

    Raises:
        ServerError: If Kafka acknowledges nothing for `publish_timeout_s`.
        SpoolError: If `folder` does not exist.
    """
    if not folder.is_dir():
        raise SpoolError(f"no folder {folder} with outboxes")
    publisher = Publisher(outbox_folders(folder), bootstrap, settings or InferenceSettings())
    total = publisher.unpublished()
    try:
        while publisher.step() or not publisher.idle or publisher.unpublished():
            if on_progress is not None:
                on_progress("publishing", publisher.counts.records, total)
    finally:
        publisher.close()
    return publisher.counts
