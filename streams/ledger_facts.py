"""What ledger and store know of their own health, as metrics: holes, held hours, dead letters.

A new fact is a metric, a function that reads it, and a line in `FACTS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine, func, select

from infra.clickhouse.client import Client
from infra.metrics import Family, Metric, by_label, one
from infra.store import tables
from infra.store.sources import registered_keys
from schemas.units import MS_PER_HOUR, MS_PER_S
from streams.facts_sql import DEAD_LETTERS, NEWEST_EVENT, missing_sequences
from streams.ledger_alarms import ledger_alarms
from streams.settings import StreamSettings


@dataclass(frozen=True, slots=True)
class Books:
    """What a fact is read from, at one instant; nothing is written."""

    client: Client
    store: Engine
    settings: StreamSettings
    now_ms: int


MISSING = Metric(
    "ledger_missing_sequences", "gauge", "Sequences that sources gave and nobody has, by now."
)
HOLED = Metric("ledger_sources_with_holes", "gauge", "Sources of which sequences are missing.")
LETTERS = Metric("ledger_dead_letters", "gauge", "Records that were refused, by reason.")
OPEN_LETTERS = Metric(
    "ledger_dead_letters_open", "gauge", "Refused records that nobody decided about."
)
QUARANTINED = Metric(
    "ledger_quarantined_events", "gauge", "Events with several contents that await a decision."
)
UNSIGNED = Metric(
    "ledger_unsigned_requests", "gauge", "Requests that no registered source signed: not billed."
)
COMPROMISED = Metric(
    "sources_compromised", "gauge", "Sources with a stolen key, and no word how far it counts."
)
HELD = Metric("hours_held", "gauge", "Hours that were decided and may not be billed.")
HELD_AGE = Metric(
    "hours_oldest_held_seconds", "gauge", "Time since the end of the oldest held hour; 0 if none."
)
PUBLISHED = Metric("hours_published", "gauge", "Hours that may be billed.")
UNPUBLISHED_AGE = Metric(
    "hours_published_age_seconds", "gauge", "Time since the end of the newest published hour."
)
NEWEST = Metric(
    "ledger_newest_event_age_seconds", "gauge", "Time since the newest request in the ledger."
)
REGISTERED = Metric("sources_registered", "gauge", "Sources whose signature counts.")


def holes(books: Books) -> list[Family]:
    """Missing sequences; the sources are named by `rentroll completeness`, not by labels."""
    settings = books.settings
    wanted = missing_sequences(
        books.now_ms, settings.metrics_lookback_s * MS_PER_S, settings.metrics_settle_s * MS_PER_S
    )
    rows = books.client.query(wanted).result_rows
    return [one(MISSING, sum(row[1] for row in rows)), one(HOLED, len(rows))]


def dead_letters(books: Books) -> list[Family]:
    """How many records were refused, by reason."""
    rows = books.client.query(DEAD_LETTERS).result_rows
    return [by_label(LETTERS, "reason", ((reason, count) for reason, count in rows))]


def awaiting(books: Books) -> list[Family]:
    """What a person has to look at, as the newest close of each hour found it."""
    found = ledger_alarms(books.client, books.store)
    return [
        one(OPEN_LETTERS, found.dead_letters_open),
        one(QUARANTINED, found.quarantined),
        one(UNSIGNED, found.held_unsigned),
        one(COMPROMISED, found.compromised_sources),
    ]


def newest_event(books: Books) -> list[Family]:
    """How old the newest request is; nothing is said where none came for a week."""
    ((newest_ms,),) = books.client.query(NEWEST_EVENT).result_rows
    return [one(NEWEST, _age_s(books, newest_ms))] if newest_ms else []


def hours(books: Books) -> list[Family]:
    """How many hours are held and published, and how old they are."""
    hour_ms, state = tables.hours.c.hour_ms, tables.hours.c.state
    wanted = select(state, func.count(), func.min(hour_ms), func.max(hour_ms)).group_by(state)
    with books.store.connect() as connection:
        found = {row[0]: row[1:] for row in connection.execute(wanted)}
    held, oldest_ms, _ = found.get("held", (0, 0, 0))
    published, _, newest_ms = found.get("published", (0, 0, 0))
    families = [
        one(HELD, held),
        one(HELD_AGE, _age_s(books, oldest_ms + MS_PER_HOUR) if held else 0),
        one(PUBLISHED, published),
    ]
    if published:
        families.append(one(UNPUBLISHED_AGE, _age_s(books, newest_ms + MS_PER_HOUR)))
    return families


def registered_sources(books: Books) -> list[Family]:
    """How many sources may speak."""
    return [one(REGISTERED, len(registered_keys(books.store)))]


def _age_s(books: Books, since_ms: int) -> int:
    return max(books.now_ms - since_ms, 0) // MS_PER_S


@dataclass(frozen=True, slots=True)
class Fact:
    """One query, and the metrics that come of it."""

    metrics: tuple[Metric, ...]
    read: Callable[[Books], list[Family]]


FACTS = (
    Fact((MISSING, HOLED), holes),
    Fact((LETTERS,), dead_letters),
    Fact((OPEN_LETTERS, QUARANTINED, UNSIGNED, COMPROMISED), awaiting),
    Fact((NEWEST,), newest_event),
    Fact((HELD, HELD_AGE, PUBLISHED, UNPUBLISHED_AGE), hours),
    Fact((REGISTERED,), registered_sources),
)
"""Everything that `rentroll metrics` asks."""


def read_facts(books: Books) -> list[Family]:
    """Ask all of it once.

    Raises:
        infra.clickhouse.client.ClickHouseError: If the ledger cannot be read.
        sqlalchemy.exc.SQLAlchemyError: If the store cannot be read.
        ContractError: If a decision in the store cannot be read.
    """
    return [family for fact in FACTS for family in fact.read(books)]
