"""The worker of live spend: a second Faust app, with its own group, whose agent sums usage."""

import asyncio
import gc
import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import faust
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from infra.clickhouse.client import ClickHouseError, Client
from infra.store.budgets import raise_alerts
from infra.store.live_spend import forget_windows
from schemas.clock import Clock
from schemas.errors import IngestError
from schemas.topics import USAGE
from schemas.units import MS_PER_HOUR, NS_PER_MS
from streams.alert_webhooks import AlertSender
from streams.app import make_app
from streams.batch_transport import batch_topic
from streams.columns import warm_up
from streams.group import Group
from streams.live_correction import Corrector
from streams.live_prices import LivePrices
from streams.live_spend import LiveSpend
from streams.patience import NotNowError
from streams.record_batch import RecordBatch
from streams.settings import StreamSettings
from streams.sink_needs import Hook, no_hook
from streams.turns import Turns

log = logging.getLogger("rentroll.live")

STATISTICS_FILE = "live.json"
_TICK_S = 0.05
_KEEP_ALIVE_S = 5.0
_IDLE_CHECK_S = 0.25
_FORGET_S = 3_600.0
_HOURS_A_DAY = 24


@dataclass(frozen=True, slots=True)
class LiveServers:
    """What live spend stands on.

    `kafka_bootstrap` is `host:port[,host:port]`, `store` the billing store, migrated. `ledger`
    connects to ClickHouse, whose published hours correct the sums; without it nothing is corrected.
    """

    kafka_bootstrap: str
    store: Engine
    ledger: Callable[[], Client] | None


class LiveWorker:
    """One worker of live spend: the app, its sums, its chores, and how it ends."""

    def __init__(
        self,
        settings: StreamSettings,
        servers: LiveServers,
        *,
        folder: Path,
        clock: Clock,
        hook: Hook = no_hook,
    ) -> None:
        """Set everything up; nothing is read of the log before `run`.

        Args:
            settings: Bounds and timeouts.
            servers: Kafka, store, ledger.
            folder: Where Faust, and our statistics, may keep their files.
            clock: Says which hours are old and which month it is.
            hook: Called between the steps of a commit.
        """
        warm_up()
        folder.mkdir(parents=True, exist_ok=True)
        self._settings = settings
        self._clock = clock
        store = self._store = servers.store
        self._ledger = servers.ledger
        self._client: Client | None = None
        self._folder = folder
        grouped = settings.model_copy(update={"ingest_group": settings.live_group})
        self._app = make_app(grouped, servers.kafka_bootstrap, folder)
        self._group = Group(self._app)
        self._prices = LivePrices(store)
        self._spend = LiveSpend(self._group, store, lambda: self._prices.estimator, settings, hook)
        self._turns = Turns(USAGE.partitions * 2)
        self._assigned = False
        self._sender = _sender(store, settings)
        self._subscribe()
        self._set_timers()

    def run(self, *, until_idle_s: float | None = None) -> None:
        """Work until SIGTERM or SIGINT, or until there was nothing to do for a while.

        Raises:
            IngestError: If the worker could not go on.
        """
        if until_idle_s is not None:
            self._app.task(partial(self._stop_when_idle, until_idle_s))
        gc.freeze()
        worker = faust.Worker(self._app, override_logging=False, quiet=True, redirect_stdouts=False)
        worker.spinner = None
        try:
            worker.execute_from_commandline()
        except SystemExit as stop:
            code = stop.code
        self._write_statistics()
        if self._spend.failure is not None:
            raise IngestError(f"live spend stopped: {self._spend.failure}") from self._spend.failure
        if code:
            raise IngestError(f"live spend stopped with status {code}; the log says why")

    def _subscribe(self) -> None:
        async def sum_usage(stream: Any) -> None:
            async for event in stream.noack().events():
                batch: RecordBatch = event.value
                await self._turns.start(
                    (batch.topic, batch.partition),
                    partial(self._take, batch, event.message.generation_id),
                )

        self._app.agent(batch_topic(self._app, USAGE.name), name="live.usage")(sum_usage)
        self._app.on_partitions_revoked.connect(self._revoked, weak=False)
        self._app.on_partitions_assigned.connect(self._joined, weak=False)
        self._app.on_before_shutdown.connect(self._shut_down, weak=False)

    def _set_timers(self) -> None:
        settings = self._settings
        self._app.timer(_TICK_S)(self._tick)
        self._app.timer(_KEEP_ALIVE_S)(self._keep_alive)
        self._app.timer(float(settings.ingest_report_s))(self._report)
        self._every(settings.live_prices_check_s, self._prices.look)
        self._every(settings.budget_check_ms / 1_000, self._alert)
        self._every(_FORGET_S, self._forget_old_windows)
        if self._ledger is not None:
            self._every(settings.live_correct_s, self._correct)

    def _every(self, interval_s: float, chore: Callable[[], object]) -> None:
        """Do a chore in a thread again and again; a server that is away is asked next time."""

        async def do() -> None:
            try:
                await asyncio.to_thread(chore)
            except (DBAPIError, ClickHouseError, OSError) as error:
                self._spend.counters.retries += 1
                log.warning("not done", extra={"what": chore.__name__, "why": str(error)[:500]})

        self._app.timer(float(interval_s))(do)

    def _alert(self) -> None:
        now_ms = self._now_ms()
        self._spend.counters.alerts += raise_alerts(self._store, now_ms)
        if self._sender is not None:
            self._sender.send_due(now_ms)

    def _correct(self) -> None:
        if self._ledger is None:
            return
        if self._client is None:
            self._client = self._ledger()
        corrector = Corrector(self._store, self._client, self._settings.live_hours_kept_days)
        found = corrector.correct(self._prices.estimator, self._now_ms())
        self._spend.counters.corrected_hours += found

    def _forget_old_windows(self) -> None:
        now_ms, settings = self._now_ms(), self._settings
        minutes_ms = settings.live_minutes_kept_hours * MS_PER_HOUR
        forget_windows(self._store, "minute", now_ms - minutes_ms)
        hours_ms = settings.live_hours_kept_days * _HOURS_A_DAY * MS_PER_HOUR
        forget_windows(self._store, "hour", now_ms - hours_ms)

    async def _take(self, batch: RecordBatch, generation: int) -> None:
        try:
            if self._spend.failure is None:
                await self._spend.take(batch, generation)
        finally:
            batch.let_go()

    async def _stop_when_idle(self, until_idle_s: float) -> None:
        idle_since_s: float | None = None
        while not self._app.should_stop:
            await asyncio.sleep(_IDLE_CHECK_S)
            if await self._left() != 0:
                idle_since_s = None
                continue
            idle_since_s = monotonic() if idle_since_s is None else idle_since_s
            if monotonic() - idle_since_s >= until_idle_s:
                log.info("nothing left to do")
                os.kill(os.getpid(), signal.SIGTERM)
                return

    async def _left(self) -> int | None:
        """Records of the log that are not committed yet; None while nobody can tell."""
        if not self._assigned or not self._group.settled:
            return None
        places = self._group.assignment()
        try:
            ends = await self._group.log_ends(places) if places else {}
            for place in places:
                await self._spend.open(place)
        except NotNowError:
            return None
        return sum(self._spend.left(place, end) for place, end in ends.items())

    async def _tick(self) -> None:
        if self._spend.failure is not None:
            await self._app.crash(self._spend.failure)
        await self._spend.tick()

    async def _keep_alive(self) -> None:
        self._group.keep_alive()

    async def _report(self) -> None:
        self._write_statistics()

    def _write_statistics(self) -> None:
        counters = self._spend.counters.as_dict()
        fresh = (self._folder / STATISTICS_FILE).with_suffix(".new")
        fresh.write_text(json.dumps(counters, sort_keys=True) + "\n")
        fresh.replace(self._folder / STATISTICS_FILE)
        log.info("live spend", extra=counters)

    async def _joined(self, *_signal: object, **_more: object) -> None:
        self._assigned = True

    async def _revoked(self, *_signal: object, **_more: object) -> None:
        await self._spend.give_up()

    async def _shut_down(self, *_signal: object, **_more: object) -> None:
        await self._turns.stop()
        await self._spend.close()

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS


def _sender(store: Engine, settings: StreamSettings) -> AlertSender | None:
    secret = settings.budget_webhook_secret
    if secret is None:
        return None
    return AlertSender(
        store,
        secret.get_secret_value(),
        timeout_s=settings.budget_webhook_timeout_s,
        attempts=settings.budget_webhook_attempts,
    )
