"""The ingest worker: a Faust app whose agents hand record batches to the sink."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import faust

from infra.kafka.security import KafkaSecurity
from infra.metrics_server import answering
from infra.ports import LOOPBACK
from schemas.errors import IngestError
from schemas.topics import DEAD_LETTERS, TOPICS, Topic
from streams.batch_transport import batch_topic, install
from streams.broker_access import faust_credentials
from streams.clickhouse_sink import ClickHouseSink
from streams.columns import warm_up
from streams.group import Group, Outbox
from streams.ingest_watch import LOOK_S, IngestWatch
from streams.patience import NotNowError
from streams.record_batch import RecordBatch
from streams.settings import StreamSettings
from streams.sink import Sink
from streams.sink_needs import Hook, no_hook
from streams.telemetry import IngestCounters, write_statistics
from streams.turns import Turns

log = logging.getLogger("rentroll.ingest")

STATISTICS_FILE = "ingest.json"
_TICK_S = 0.05
_SETTLE_S = 1.0
_KEEP_ALIVE_S = 5.0
_IDLE_CHECK_S = 0.25
_BATCHES_PER_THREAD = 2
"""One that is decoded, one that waits for it: so no thread waits for a fetch."""


_SWITCH_S = 0.001
"""Decoding holds the interpreter; inserts and fetches, waiting for it, would idle their servers."""


def make_app(
    settings: StreamSettings,
    kafka_bootstrap: str,
    folder: Path,
    security: KafkaSecurity | None = None,
) -> faust.App:
    """A Faust app with the batch transport and nothing of Faust's that we do not use.

    Args:
        settings: Bounds and timeouts.
        kafka_bootstrap: `host:port[,host:port]`.
        folder: Where Faust may keep its files.
        security: How to be let in; None: as the settings of the environment say.
    """
    app = faust.App(
        settings.ingest_group,
        broker=[f"kafka://{address}" for address in kafka_bootstrap.split(",")],
        broker_credentials=faust_credentials(security),
        datadir=str(folder),
        web_enabled=False,
        worker_redirect_stdouts=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        table_standby_replicas=0,
        # Our boundaries are committed by the sink; Faust has nothing to wait for or to commit.
        stream_wait_empty=False,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=settings.ingest_metadata_age_s * 1_000,
        consumer_max_fetch_size=settings.ingest_fetch_bytes,
        broker_session_timeout=settings.ingest_session_timeout_s,
        broker_heartbeat_interval=settings.ingest_heartbeat_s,
        broker_request_timeout=max(90, settings.ingest_session_timeout_s * 2),
        producer_acks=-1,
        producer_compression_type="lz4",
        producer_max_request_size=DEAD_LETTERS.max_message_bytes,
    )
    install(app, buffered_batches=settings.ingest_buffered_batches, grouped=settings.ingest_grouped)
    return app


class IngestWorker:
    """One worker: the app, its sink, its timers, and how it ends."""

    def __init__(
        self,
        settings: StreamSettings,
        *,
        kafka_bootstrap: str,
        ledger: ClickHouseSink,
        folder: Path,
        topics: tuple[Topic, ...] = TOPICS,
        hook: Hook = no_hook,
    ) -> None:
        warm_up()
        folder.mkdir(parents=True, exist_ok=True)
        self._settings = settings
        self._hook = hook
        self._folder = folder
        self._app = make_app(settings, kafka_bootstrap, folder)
        self._group = Group(self._app)
        self._sink = Sink(self._group, ledger, Outbox(self._app, DEAD_LETTERS.name), settings, hook)
        self.watch = IngestWatch(self._group, self._sink, ledger.ask, settings)
        self._turns = Turns(settings.ingest_decode_threads * _BATCHES_PER_THREAD)
        self._assigned = False
        for topic in topics:
            self._subscribe(topic)
        self._app.on_partitions_revoked.connect(self._revoked, weak=False)
        self._app.on_partitions_assigned.connect(self._joined, weak=False)
        self._app.on_before_shutdown.connect(self._shut_down, weak=False)
        self._app.timer(_TICK_S)(self._tick)
        self._app.timer(_SETTLE_S)(self._sink.settle)
        self._app.timer(_KEEP_ALIVE_S)(self._keep_alive)
        self._app.timer(float(settings.ingest_retention_check_s))(self._watch_retention)
        self._app.timer(float(settings.ingest_report_s))(self._report)
        self._app.timer(LOOK_S)(self._look)

    @property
    def counters(self) -> IngestCounters:
        """What was done since the start."""
        return self._sink.counters

    def run(
        self,
        *,
        until_idle_s: float | None = None,
        on_progress: Callable[[IngestCounters, int], None] | None = None,
    ) -> None:
        """Work until SIGTERM or SIGINT, or until there was nothing to do for a while.

        Args:
            until_idle_s: Stop when every partition is at the log's end, inserted and committed,
                for so many seconds.
            on_progress: Called a few times a second with the counters and the records that are
                still to come.

        Raises:
            IngestError: If the worker could not go on.
        """
        if until_idle_s is not None or on_progress is not None:
            self._app.task(self._watch(until_idle_s, on_progress))
        gc.freeze()
        sys.setswitchinterval(_SWITCH_S)
        worker = faust.Worker(self._app, override_logging=False, quiet=True, redirect_stdouts=False)
        worker.spinner = None
        try:
            with self._answering():
                worker.execute_from_commandline()
        except SystemExit as stop:
            code = stop.code
        self._report_once()
        if self._sink.failure is not None:
            raise IngestError(f"ingest stopped: {self._sink.failure}") from self._sink.failure
        if code:
            raise IngestError(f"ingest stopped with status {code}; the log says why")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Tell whoever asks how the worker stands, where settings name a port for it."""
        if not self._settings.ingest_metrics_port:
            yield
            return
        with answering(self._settings.ingest_metrics_port, self.watch.told) as port:
            log.info("tells how it stands", extra={"url": f"http://{LOOPBACK}:{port}/metrics"})
            yield

    def _subscribe(self, topic: Topic) -> None:
        source = batch_topic(self._app, topic.name)

        async def ingest(stream: Any) -> None:
            async for event in stream.noack().events():
                batch: RecordBatch = event.value
                await self._turns.start(
                    (batch.topic, batch.partition),
                    partial(self._take, batch, event.message.generation_id),
                )

        ingest.__name__ = f"ingest_{topic.name.replace('.', '_')}"
        self._app.agent(source, name=f"ingest.{topic.name}")(ingest)

    async def _take(self, batch: RecordBatch, generation: int) -> None:
        try:
            if self._sink.failure is None:
                await self._sink.take(batch, generation)
        finally:
            batch.let_go()

    def _watch(
        self,
        until_idle_s: float | None,
        on_progress: Callable[[IngestCounters, int], None] | None,
    ) -> Callable[[], object]:
        async def watch() -> None:
            idle_since_s: float | None = None
            while not self._app.should_stop:
                await asyncio.sleep(_IDLE_CHECK_S)
                left = await self._left()
                if on_progress is not None and left is not None:
                    on_progress(self.counters, left)
                if left != 0:
                    idle_since_s = None
                    continue
                idle_since_s = monotonic() if idle_since_s is None else idle_since_s
                if until_idle_s is not None and monotonic() - idle_since_s >= until_idle_s:
                    log.info("nothing left to do")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

        return watch

    async def _left(self) -> int | None:
        """Records of the log that are not committed yet; None while nobody can tell."""
        if not self._assigned or not self._group.settled:
            return None
        places = self._group.assignment()
        try:
            ends = await self._group.log_ends(places) if places else {}
            for place in places:
                await self._sink.open(place)
        except NotNowError:
            return None
        return sum(self._sink.left(place, end) for place, end in ends.items())

    async def _tick(self) -> None:
        if self._sink.failure is not None:
            await self._app.crash(self._sink.failure)
        self._sink.tick()

    async def _keep_alive(self) -> None:
        self._group.keep_alive()

    async def _look(self) -> None:
        await self.watch.look(joined=self._assigned)

    async def _watch_retention(self) -> None:
        # In a partition's turn: a fetch that is being decoded has not moved its state yet.
        for place in self._group.assignment() if self._group.settled else ():
            await self._turns.start(place, partial(self._sink.watch_retention, place))

    async def _report(self) -> None:
        self._report_once()

    def _report_once(self) -> None:
        write_statistics(self._folder / STATISTICS_FILE, self.counters)
        log.info("ingested", extra=self.counters.as_dict())

    async def _joined(self, *_signal: object, **_more: object) -> None:
        if not self._assigned:
            self._assigned = True
            self._hook("joined")
            self._report_once()

    async def _revoked(self, *_signal: object, **_more: object) -> None:
        await self._sink.give_up()

    async def _shut_down(self, *_signal: object, **_more: object) -> None:
        self.watch.end()
        await self._turns.stop()
        await self._sink.close()
