"""What a look at completeness found, for people: hours, holes and how to fill them, alarms."""

from collections.abc import Iterator
from itertools import groupby

from rich.table import Table
from rich.text import Text

from infra.store.decisions import Decision
from schemas.ids import format_ms
from schemas.periods import Period, hour_text
from schemas.units import MS_PER_HOUR
from streams.completeness_look import Hole, Look

_SHOWN_MAX = 50


def hours_table(look: Look, period: Period) -> Table:
    """Hours that may not close, neighbours of one reason together."""
    table = Table(title=f"Hours of {period.name} that may not close", title_justify="left")
    table.add_column("Hours", no_wrap=True)
    table.add_column("Why")
    for reasons, group in groupby(sorted(look.waiting.items()), key=lambda pair: pair[1]):
        hours = [hour for hour, _ in group]
        span = hour_text(hours[0])
        if len(hours) > 1:
            span = f"{span} to {hour_text(hours[-1] + MS_PER_HOUR)} ({len(hours)})"
        table.add_row(Text(span), Text("\n".join(reasons)), style="red")
    return table


def findings_text(look: Look) -> Text | None:
    """Holes and what fills them, clocks, strangers, declared losses; None where there is none."""
    lines = [*_holes(look.holes), *_clocks(look), *_strangers(look)]
    lines += [_declared(one) for one in look.declared]
    if len(lines) > _SHOWN_MAX:
        lines = [*lines[:_SHOWN_MAX], f"and {len(lines) - _SHOWN_MAX} more"]
    return Text("\n".join(lines)) if lines else None


def _holes(holes: list[Hole]) -> Iterator[str]:
    for hole in holes:
        replicas = ", ".join(hole.replicas) or "none known"
        which = (
            f"from sequence {hole.first} on, its end"
            if hole.last is None
            else f"sequences {hole.first} to {hole.last} ({hole.last - hole.first + 1} records)"
        )
        until = "--gone" if hole.last is None else f"--first {hole.first} --last {hole.last}"
        yield (
            f"hole: source {hole.source} on host {hole.host} (replicas: {replicas}): {which}.\n"
            f"  To fill it: run `rentroll sidecar` on {hole.host}; it publishes what"
            f" outboxes/{hole.source} in its folder (RENTROLL_INFERENCE_HOST_FOLDER) still holds."
            " Each hour closes again with what arrives.\n"
            f"  If that disk is gone: rentroll completeness declare-loss --source {hole.source}"
            f" {until} --who NAME --why REASON"
        )


def _clocks(look: Look) -> Iterator[str]:
    for source in look.sources:
        for alarm in source.clock_alarms:
            yield f"clock of host {source.host} (source {source.source}): {alarm}"


def _strangers(look: Look) -> Iterator[str]:
    for one in look.strangers:
        said = f"which calls its host {one.host}" if one.host else "which never said that it opened"
        yield (
            f"unregistered: source {one.source}, {said}: {one.requests} requests in the ledger are"
            " not billed and hold nothing. Register its key if it is yours"
        )


def _declared(one: Decision) -> str:
    return (
        f"declared lost: {one.subject} by {one.decided_by} at {format_ms(one.decided_at_ms)}:"
        f" {one.reason} (decision {one.position})"
    )
