"""How far a source is proven and which hours it touches, for whoever judges its key."""

from dataclasses import dataclass

from sqlalchemy import Engine

from infra.clickhouse.client import Client
from infra.store.decisions import decisions_after
from schemas.units import MS_PER_HOUR
from streams.completeness import SourceState
from streams.completeness_decisions import Decisions, read_decisions
from streams.completeness_ledger import Ledger, read_offsets
from streams.completeness_reading import read_sources
from streams.completeness_sql import EVENT_TABLES
from streams.rollup_sql import HourRange
from streams.settings import StreamSettings

END_OF_TIME_MS = 4_102_444_800_000


@dataclass(frozen=True, slots=True)
class SourceReach:
    """What the ledger holds of one source, whatever its key is worth.

    `first_ms` and `last_ms` are the times of its oldest and newest event; 0 where there is none.
    """

    events: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def hours(self) -> range:
        """Every hour from its first event to its last, in ms since the epoch."""
        first = self.first_ms // MS_PER_HOUR * MS_PER_HOUR
        return range(first, self.last_ms + 1, MS_PER_HOUR) if self.events else range(0)


def current_decisions(store: Engine) -> Decisions:
    """Everything decided so far.

    Raises:
        ContractError: If a decision in the store cannot be read.
    """
    return read_decisions(
        (one.position, one.kind, one.subject) for one in decisions_after(store, 0)
    )


def source_state(
    client: Client, store: Engine, source: str, settings: StreamSettings | None = None
) -> SourceState | None:
    """What is proven of one source over its whole life; None where nothing of it counts."""
    ledger = Ledger(client, read_offsets(client), settings or StreamSettings())
    states, _ = read_sources(
        ledger, store, current_decisions(store), HourRange(0, END_OF_TIME_MS), only=[source]
    )
    return states[0] if states else None


def proven_through(state: SourceState | None) -> int:
    """The last sequence that the source's signed ranges prove; 0 where there is none."""
    spans = state.findings.spans if state else []
    return spans[-1][1] if spans else 0


def source_reach(client: Client, source: str) -> SourceReach:
    """What the ledger holds of one source."""
    union = " UNION ALL ".join(
        "SELECT toUnixTimestamp64Milli(event_time) AS ms"  # noqa: S608 - our own names
        f" FROM {table} FINAL WHERE source = {{source:UUID}}"
        for table in EVENT_TABLES
    )
    ((events, first_ms, last_ms),) = client.query(
        f"SELECT count(), min(ms), max(ms) FROM ({union})",  # noqa: S608 - our own names
        parameters={"source": source},
    ).result_rows
    return SourceReach(int(events), int(first_ms), int(last_ms))
