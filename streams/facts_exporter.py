"""Asks ledger and store at a bounded rate, and keeps the last answer for whoever scrapes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from infra.clickhouse.client import ClickHouseError, Client
from infra.metrics import Family, Metric, exposition, one
from infra.metrics_server import Told
from infra.stop_request import StopRequest
from schemas.clock import Clock
from schemas.errors import RentrollError
from schemas.units import MS_PER_S, NS_PER_MS
from streams.ledger_facts import Books, read_facts
from streams.settings import StreamSettings

log = logging.getLogger("rentroll.metrics")

MISSED_MAX = 3
"""Refreshes in a row that may fail before the facts are called stale."""

REFRESHED = Metric("facts_refreshed_total", "counter", "Times that ledger and store were asked.")
FAILED = Metric("facts_failed_total", "counter", "Times that one of them did not answer.")
AGE = Metric("facts_age_seconds", "gauge", "Time since both last answered.")
METRICS = (REFRESHED, FAILED, AGE)


@dataclass(frozen=True, slots=True)
class Servers:
    """How to reach the two; asked again for each refresh, so that either may have been away."""

    ledger: Callable[[], Client]
    store: Engine


class FactsExporter:
    """The last facts, and how old they are; `keep_fresh` runs until it is asked to stop."""

    def __init__(self, servers: Servers, settings: StreamSettings, clock: Clock) -> None:
        self._servers = servers
        self._settings = settings
        self._clock = clock
        self._facts: list[Family] = []
        self._refreshed = self._failed = self._in_a_row = 0
        self._asked_ms = 0
        self._began_ms = self._now_ms()

    @property
    def told(self) -> Told:
        """For the server of metrics."""
        return Told(self.text, list, self.unready)

    def keep_fresh(self, stop: StopRequest) -> None:
        """Ask every `metrics_refresh_s`."""
        self.refresh()
        while not stop.wait(self._settings.metrics_refresh_s):
            self.refresh()

    def refresh(self) -> bool:
        """Ask once; whether both answered. What they said before stays otherwise."""
        now_ms = self._now_ms()
        try:
            with self._servers.ledger() as client:
                books = Books(client, self._servers.store, self._settings, now_ms)
                facts = read_facts(books)
        except (ClickHouseError, SQLAlchemyError, RentrollError, OSError) as error:
            self._failed += 1
            self._in_a_row += 1
            log.warning("facts are not refreshed", extra={"why": str(error)[:1_000]})
            return False
        self._facts, self._asked_ms = facts, now_ms
        self._refreshed += 1
        self._in_a_row = 0
        return True

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        age_s = (self._now_ms() - (self._asked_ms or self._began_ms)) // MS_PER_S
        own = [one(REFRESHED, self._refreshed), one(FAILED, self._failed), one(AGE, age_s)]
        return exposition([*self._facts, *own])

    def unready(self) -> list[str]:
        """What keeps the facts from being fresh."""
        if self._in_a_row >= MISSED_MAX:
            return [f"ledger or store did not answer {self._in_a_row} times"]
        return [] if self._refreshed else ["ledger and store have not answered yet"]

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS
