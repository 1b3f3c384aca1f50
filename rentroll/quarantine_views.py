"""Tables of contradicting events, and of what was decided, for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from infra.store.decisions import Decision
from rentroll.trust_rim import hour_text, time_text
from streams.quarantine import QuarantinedEvent

_HASH_SHOWN = 12
_VALUE_SHOWN = 60


def events_table(events: Sequence[QuarantinedEvent]) -> Table:
    """One row per event: its contents, whose they are, how many are signed, what was decided."""
    table = Table(title="Events with different contents under one id", title_justify="left")
    for heading in ("Event", "Hour", "Tenants", "Contents", "Signed", "Decided"):
        table.add_column(heading, overflow="fold")
    for one in events:
        tenants = sorted({content.tenant for content in one.contents if content.tenant})
        table.add_row(
            one.event_id,
            hour_text(one.hour_ms),
            Text(", ".join(tenants)),
            str(len(one.contents)),
            str(len(one.signed())),
            decided_text(one),
        )
    return table


def contents_table(event: QuarantinedEvent) -> Table:
    """One row per content of an event."""
    table = Table(title=f"Event {event.event_id}: {decided_text(event)}", title_justify="left")
    for heading in ("Content", "Table", "Tenant", "Source", "Sequence", "Lay at", "Signed"):
        table.add_column(heading, overflow="fold")
    for one in event.contents:
        table.add_row(
            one.content_hash,
            one.table,
            Text(one.tenant),
            one.source,
            str(one.sequence),
            one.place,
            "yes" if one.signed else "no",
            style="" if one.signed else "red",
        )
    return table


def differences_table(differing: Mapping[str, Mapping[str, Any]], event: QuarantinedEvent) -> Table:
    """One row per field in which the contents differ, one column per content."""
    table = Table(title="Where they differ", title_justify="left")
    table.add_column("Field")
    hashes = [one.content_hash for one in event.contents]
    for content in hashes:
        table.add_column(f"{content[:_HASH_SHOWN]}…", overflow="fold")
    for field, values in differing.items():
        cells = [str(values.get(content, ""))[:_VALUE_SHOWN] for content in hashes]
        table.add_row(field, *(Text(cell) for cell in cells))
    return table


def decisions_table(decisions: Sequence[Decision]) -> Table:
    """Who decided what, when and why, oldest first."""
    table = Table(title="Decisions", title_justify="left")
    for heading in ("Position", "When", "Who", "What", "About", "Why"):
        table.add_column(heading, overflow="fold")
    for one in decisions:
        table.add_row(
            str(one.position),
            time_text(one.decided_at_ms),
            Text(one.decided_by),
            one.kind,
            Text(one.subject),
            Text(one.reason),
        )
    return table


def decided_text(event: QuarantinedEvent) -> str:
    """What was decided about an event, in a few words."""
    if event.kept is None:
        return "awaits a decision" if len(event.contents) > 1 else "not in question"
    return f"keep {event.kept[:_HASH_SHOWN]}…" if event.kept else "none is billed"
