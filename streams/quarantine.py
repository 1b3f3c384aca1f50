"""Events that are in the ledger with different contents under one id, and how that is settled."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from infra.clickhouse.client import Client, external
from infra.store.decisions import Decider, Decision, append_decisions
from schemas.errors import ContractError
from schemas.ids import is_uuid7, uuid7_unix_ms
from schemas.units import MS_PER_HOUR
from streams.close_sql import conflicts
from streams.completeness import SourceState
from streams.completeness_decisions import SETTLE_CONFLICT
from streams.completeness_ledger import Ledger, read_offsets
from streams.completeness_reading import read_sources
from streams.completeness_sql import EVENT_TABLES
from streams.rollup_sql import HourRange
from streams.settings import StreamSettings
from streams.source_trust import END_OF_TIME_MS, current_decisions

_NOT_SAID = {"content_hash", "topic", "kafka_partition", "kafka_offset"}
"""Columns that say how a row got here, or that differ because another column does."""


@dataclass(frozen=True, slots=True)
class Content:
    """One of the contents under an id: which it is, who claims to have sent it, where it lay."""

    content_hash: str
    table: str
    tenant: str
    source: str
    sequence: int
    place: str
    signed: bool = False


@dataclass(frozen=True, slots=True)
class QuarantinedEvent:
    """An event id with all its contents; `kept` is what was decided: a hash, "" for none, None."""

    event_id: str
    contents: Sequence[Content]
    kept: str | None

    @property
    def hour_ms(self) -> int:
        """The hour in which every content of it lies, for an id carries its time."""
        return uuid7_unix_ms(self.event_id) // MS_PER_HOUR * MS_PER_HOUR

    def signed(self) -> list[Content]:
        """The contents that a registered source signed; more than one is that source's fault."""
        return [one for one in self.contents if one.signed]

    def content(self, content_hash: str) -> Content:
        """The one content whose hash begins so.

        Raises:
            ContractError: If none or several do, or if no registered source signed it: law 10
                says that it is never billed, whoever decides.
        """
        found = [one for one in self.contents if one.content_hash.startswith(content_hash.lower())]
        if len(found) != 1 or not content_hash:
            known = ", ".join(one.content_hash for one in self.contents)
            raise ContractError(
                f"event {self.event_id} has {len(found)} contents {content_hash!r}: it has {known}"
            )
        if not found[0].signed:
            raise ContractError(
                f"no registered source signed content {found[0].content_hash} of event"
                f" {self.event_id}: it cannot be billed"
            )
        return found[0]


def quarantined_events(
    client: Client,
    store: Engine,
    hours: HourRange,
    *,
    limit: int,
    settled: bool = False,
    settings: StreamSettings | None = None,
) -> list[QuarantinedEvent]:
    """Events of some hours with different contents, by hour and id, at most `limit`.

    Args:
        client: The ledger.
        store: The billing store.
        hours: Which hours.
        limit: How many contradictions are read.
        settled: Also those about which somebody decided.
        settings: Bounds of reading; from the environment if not given.
    """
    ledger = Ledger(client, read_offsets(client), settings or StreamSettings())
    decisions = current_decisions(store)
    rows = client.query(conflicts(ledger.offsets, hours, limit)).result_rows
    wanted = [row[1] for row in rows if settled or row[1] not in decisions.settled]
    return _described(ledger, store, wanted, hours) if wanted else []


def event_contents(
    client: Client, store: Engine, event_id: str, settings: StreamSettings | None = None
) -> QuarantinedEvent:
    """One event with its contents, whether they contradict each other or not.

    Raises:
        ContractError: If that is no event id, or nothing under it is in the ledger.
    """
    ledger = Ledger(client, read_offsets(client), settings or StreamSettings())
    found = _described(ledger, store, [_event_id(event_id)], _hour_of(event_id))
    if not found:
        raise ContractError(f"event {event_id} is not in the ledger")
    return found[0]


def differences(client: Client, event_id: str) -> dict[str, dict[str, Any]]:
    """By column, the value of each content (by its hash) where not all agree.

    Columns of contents in different tables are told too where the tables share them.
    """
    rows: dict[str, dict[str, Any]] = {}
    condition = _hour_of(event_id).condition()
    for table in EVENT_TABLES:
        found = client.query(
            f"SELECT * FROM {table} FINAL WHERE {condition}"  # noqa: S608 - our own names
            " AND event_id = {event_id:UUID}",
            parameters={"event_id": event_id},
        )
        for row in found.named_results():
            rows[bytes(row["content_hash"]).hex()] = dict(row) | {"table": table}
    columns = sorted(set().union(*rows.values()) - _NOT_SAID) if rows else []
    said = {name: {key: row[name] for key, row in rows.items() if name in row} for name in columns}
    return {
        name: values
        for name, values in said.items()
        if len({repr(value) for value in values.values()}) > 1
    }


def settle(store: Engine, settlements: Mapping[str, str], decider: Decider) -> list[Decision]:
    """Record which content of each event id is the true one, "" for none; the latest counts."""
    new = [
        decider.on(
            SETTLE_CONFLICT,
            json.dumps({"event_id": event_id, "keep": keep}, sort_keys=True, separators=(",", ":")),
        )
        for event_id, keep in settlements.items()
    ]
    return append_decisions(store, new)


def settled_by_signature(events: Collection[QuarantinedEvent]) -> dict[str, str]:
    """Of each event that has exactly one signed content, that one: what a person may accept."""
    return {one.event_id: one.signed()[0].content_hash for one in events if len(one.signed()) == 1}


def _described(
    ledger: Ledger, store: Engine, wanted: Sequence[str], hours: HourRange
) -> list[QuarantinedEvent]:
    decisions = current_decisions(store)
    rows = list(_contents(ledger, wanted, hours))
    states, _ = read_sources(
        ledger,
        store,
        decisions,
        HourRange(hours.first_ms, END_OF_TIME_MS),
        only={row.source for _, row in rows},
    )
    by_source = {one.source: one for one in states}
    contents: dict[str, list[Content]] = {}
    for event_id, one in rows:
        signed = _is_signed(one, by_source.get(one.source))
        contents.setdefault(event_id, []).append(replace(one, signed=signed))
    return [
        QuarantinedEvent(event_id, contents[event_id], decisions.settled.get(event_id))
        for event_id in wanted
        if event_id in contents
    ]


def _contents(
    ledger: Ledger, wanted: Sequence[str], hours: HourRange
) -> Iterator[tuple[str, Content]]:
    selects = [
        f"SELECT event_id, lower(hex(content_hash)) AS content, '{table}' AS kind,"  # noqa: S608
        f" {tenant} AS whose, toString(source) AS sender, sequence,"
        " concat(toString(topic), '/', toString(kafka_partition), '/', toString(kafka_offset))"
        f" AS place FROM {table} FINAL PREWHERE {ledger.offsets.condition()}"
        f" WHERE {hours.condition()} AND event_id IN (SELECT asked FROM wanted)"
        for table, tenant in (
            ("usage_events", "toString(tenant)"),
            ("engine_parts", "toString(tenant)"),
            ("engine_intervals", "''"),
            ("fleet_events", "toString(subject)"),
        )
    ]
    rows = ledger.client.query(
        "SELECT toString(event_id), content, kind, whose, sender, sequence, place FROM ("  # noqa: S608
        + " UNION ALL ".join(selects)
        + ") ORDER BY event_id, place",
        external_data=external(wanted=("asked UUID", [(one,) for one in wanted])),
    ).result_rows
    for event_id, *rest in rows:
        yield event_id, Content(*rest)


def _is_signed(one: Content, source: SourceState | None) -> bool:
    if source is None or bytes.fromhex(one.content_hash) in source.findings.rejected:
        return False
    return any(first <= one.sequence <= last for first, last in source.findings.spans)


def _event_id(text: str) -> str:
    try:
        event_id = str(UUID(text))
    except ValueError as error:
        raise ContractError(f"an event id is a UUID, not {text!r}") from error
    if not is_uuid7(event_id):
        raise ContractError(f"an event id is a UUID of version 7, {text} is not")
    return event_id


def _hour_of(event_id: str) -> HourRange:
    hour_ms = uuid7_unix_ms(_event_id(event_id)) // MS_PER_HOUR * MS_PER_HOUR
    return HourRange(hour_ms, hour_ms + MS_PER_HOUR)
