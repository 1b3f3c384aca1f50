"""A ledger and a store under test, with the steps that tests of closing take on them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Engine

from infra.clickhouse.client import Client
from infra.store.sources import register_source
from schemas.clock import FixedClock
from schemas.periods import HOUR, Period, parse_period
from schemas.units import NS_PER_MS
from streams.close import Closing, HourVerdict, close_hours
from streams.settings import StreamSettings
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript
from tests.support.ledger import LedgerWriter

NOVEMBER_24_MS = OCTOBER_MS + 54 * 24 * HOUR_MS


@dataclass
class Books:
    """A ledger and a store, with the steps that tests take on them."""

    client: Client
    store: Engine
    writer: LedgerWriter
    settings: StreamSettings = field(default_factory=StreamSettings)
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOVEMBER_24_MS * NS_PER_MS))

    def register(self, *hosts: HostScript, at_ms: int = NOVEMBER_24_MS) -> None:
        for host in hosts:
            register_source(
                self.store,
                source=host.source,
                host=host.host,
                public_key=host.key.public_key_hex(),
                registered_by="test",
                now_ms=at_ms,
            )

    def close(
        self,
        hours: int = 3,
        progress: Callable[[str, int, int], None] = lambda *_: None,
        period: Period | None = None,
    ) -> Closing:
        """Close the first hours of October."""
        start = parse_period("2026-10").start
        return close_hours(
            self.client,
            self.store,
            period or Period(start, start + hours * HOUR, "test"),
            clock=self.clock,
            settings=self.settings,
            progress=progress,
        )

    def view(self) -> tuple[int, int, int]:
        """Requests, input tokens and GPU time as everyone reads them."""
        ((requests, tokens, gpu_ns),) = self.client.query(
            "SELECT sum(requests), sum(input_uncached_tokens), sum(gpu_ns) FROM usage_hourly"
        ).result_rows
        return requests, tokens, gpu_ns


def states(closing: Closing) -> list[str]:
    return [hour.state for hour in closing.hours]


def first(closing: Closing) -> HourVerdict:
    return closing.hours[0]
