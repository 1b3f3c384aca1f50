"""Tables of closed hours and of sources, for people and as JSON."""

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from schemas.ids import format_ms
from schemas.periods import Period
from schemas.units import MS_PER_HOUR
from streams.close import Closing, HourVerdict
from streams.completeness import SourceState
from streams.completeness_engines import TimeLine

log = logging.getLogger("rentroll.close")

_PREFIX = 12
_PROBLEMS_SHOWN = 50


def log_closing(closing: Closing, period: Period) -> None:
    """One line per held hour, as far as anybody reads on, and one of totals."""
    held = closing.held()
    for one in held[:_PROBLEMS_SHOWN]:
        log.warning("hour is held", extra={"hour": _hour(one.hour_ms), "reason": one.reason})
    totals = {"period": period.name, "hours": len(closing.hours), "held": len(held)}
    published = sum(one.changed and one.state == "published" for one in closing.hours)
    events = sum(one.events for one in closing.hours)
    log.info("hours decided", extra=totals | {"published": published, "events": events})


def closing_table(closing: Closing, period: Period) -> Table:
    """Hours with usage, and held hours with their reason; neighbours of one reason together."""
    table = Table(title=f"Hours of {period.name}", title_justify="left")
    table.add_column("Hour", no_wrap=True)
    table.add_column("State")
    for heading in ("Events", "Tokens", "GPU ns"):
        table.add_column(heading, justify="right")
    table.add_column("Run")
    for row, style in _rows(closing.hours):
        table.add_row(*(Text(cell) for cell in row), style=style)
    return table


def _rows(hours: Sequence[HourVerdict]) -> Iterator[tuple[tuple[str, ...], str]]:
    for (state, reason), group in groupby(hours, key=lambda one: (one.state, one.reason)):
        same = list(group)
        if state == "held":
            yield (_span(same), "held", "", "", "", reason), "red"
            continue
        for one in same:
            if one.run_id:
                yield (
                    (
                        _hour(one.hour_ms),
                        one.state if one.changed else "unchanged",
                        f"{one.events:,}",
                        f"{sum(one.tokens.values()):,}",
                        f"{one.gpu_ns:,}",
                        one.run_id[:_PREFIX],
                    ),
                    "",
                )


def closing_totals(closing: Closing) -> Text:
    """One line of totals."""
    tokens = sum(sum(one.tokens.values()) for one in closing.hours)
    held = len(closing.held())
    text = Text(
        f"{len(closing.hours) - held} of {len(closing.hours)} hours published:"
        f" {sum(one.events for one in closing.hours):,} events, {tokens:,} tokens,"
        f" {sum(one.gpu_ns for one in closing.hours):,} GPU ns;"
        f" lost {closing.lost()}, declared lost by their source {closing.lost_requests()},"
        f" copies collapsed {closing.copies()}, unsigned and excluded {closing.excluded()},"
        f" quarantined {closing.quarantined()}"
    )
    if held:
        text.append(f"; {held} held", style="bold red")
    return text


def closing_report(closing: Closing, period: Period) -> dict[str, Any]:
    """The same for machines, with every hour."""
    return {
        "period": period.name,
        "held_hours": len(closing.held()),
        "lost": closing.lost(),
        "lost_requests": closing.lost_requests(),
        "copies": closing.copies(),
        "excluded": closing.excluded(),
        "quarantined": closing.quarantined(),
        "offsets": closing.offsets,
        "decisions_position": closing.decisions_position,
        "hours": [
            {
                "hour": _hour(one.hour_ms),
                "state": one.state,
                "reason": one.reason,
                "events": one.events,
                "tokens": one.tokens,
                "gpu_ns": one.gpu_ns,
                "digest": one.sums.digest,
                "run_id": one.run_id,
                "position": one.position,
                "changed": one.changed,
                "excluded": one.excluded,
                "quarantined": one.quarantined,
                "dropped": one.dropped,
                "copies": one.copies,
            }
            for one in closing.hours
        ],
    }


def sources_table(sources: Sequence[SourceState], period: Period) -> Table:
    """One row per source: how far it is proven."""
    table = Table(title=f"Sources of {period.name}", title_justify="left", show_lines=True)
    table.add_column("Source, host")
    table.add_column("Opened, closed or watermark", no_wrap=True)
    for heading in ("Seen of", "Holes", "Re-fused", "Ranges", "Un-signed", "Lost"):
        table.add_column(heading, justify="right")
    for one in sources:
        found = one.findings
        until = f"closed {_time(one.closed_ms)}" if one.closed_ms else _time(one.watermark_ms())
        table.add_row(
            f"{one.source[:_PREFIX]}\n{one.host}",
            f"{_time(one.opened_ms)}\n{until}",
            f"{found.records_seen:,}\nof {one.expected():,}",
            f"{found.lost:,}",
            f"{len(found.dead_letters):,}",
            f"{found.ranges_proven:,}",
            f"{one.unsigned_ranges:,}",
            f"{one.lost_requests():,}",
            style="red" if one.problems or one.opened_ms is None else "",
        )
    return table


def engines_table(sources: Sequence[SourceState]) -> Table:
    """Where every engine's GPU time went, in ns: owned is the sum of the others."""
    table = Table(title="Engines' time lines", title_justify="left")
    table.add_column("Replica, engine")
    table.add_column("Time")
    table.add_column("GPU ns", justify="right")
    for source in sources:
        for engine, line in source.time_lines.items():
            first = (f"{line.replica}, {engine[:_PREFIX]}", f"{line.intervals:,} intervals", "")
            table.add_row(*first, style="bold")
            for name, figure in _time_line(line):
                style = "red" if name == "difference" and figure else ""
                table.add_row("", name, f"{figure:,}", style=style)
            table.add_section()
    return table


def _time_line(line: TimeLine) -> list[tuple[str, int]]:
    return [
        ("owned", line.owned_ns),
        ("= attributed", line.attributed_ns),
        ("+ stall", line.stall_ns),
        ("+ idle", line.idle_ns),
        ("+ overhead", line.overhead_ns),
        ("+ startup", line.startup_ns),
        ("+ unaccounted", line.unaccounted_ns),
        ("+ open steps", line.open_step_ns),
        ("difference", line.difference_ns()),
    ]


def problems_text(sources: Sequence[SourceState]) -> Text | None:
    """Every problem with its source, bounded; None where there is none."""
    lines = [
        f"source {source.source} (host {source.host}): {problem.text}"
        for source in sources
        for problem in source.problems
    ]
    if not lines:
        return None
    if len(lines) > _PROBLEMS_SHOWN:
        lines = [*lines[:_PROBLEMS_SHOWN], f"and {len(lines) - _PROBLEMS_SHOWN} more"]
    return Text("\n".join(lines), style="red")


def _span(hours: Sequence[HourVerdict]) -> str:
    if len(hours) == 1:
        return _hour(hours[0].hour_ms)
    end_ms = hours[-1].hour_ms + MS_PER_HOUR
    return f"{_hour(hours[0].hour_ms)} to {_hour(end_ms)} ({len(hours)} hours)"


def _hour(hour_ms: int) -> str:
    return f"{format_ms(hour_ms)[:16]}Z"


def _time(time_ms: int | None) -> str:
    return "none" if time_ms is None else f"{format_ms(time_ms)[:19]}Z"
