"""When a tenant that does not pay is reminded and suspended; pure.

Days count from the moment when a payment failed or the due date passed, whichever was seen first:

    failing ──remind_after──▶ reminder ──every──▶ reminder … ──suspend_after──▶ suspended
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Milliseconds from the moment when an invoice began to fail."""

    remind_after_ms: int
    remind_every_ms: int
    suspend_after_ms: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How far dunning has gone with one invoice; `failing_since_ms` is None while all is well."""

    failing_since_ms: int | None
    reminders: int
    is_suspended: bool


@dataclass(frozen=True, slots=True)
class Remind:
    """Mail the invoice again; `number` counts from 1, `due_ms` is when its time came."""

    number: int
    due_ms: int


@dataclass(frozen=True, slots=True)
class Suspend:
    """Serve the tenant no more."""


def next_action(standing: Standing, schedule: Schedule, now_ms: int) -> Remind | Suspend | None:
    """What is due now, if anything.

    Reminders that were missed while nobody looked are not made up for: one mail says it. Once the
    tenant is suspended there are no more.
    """
    since_ms = standing.failing_since_ms
    if since_ms is None or standing.is_suspended:
        return None
    failing_ms = now_ms - since_ms
    if failing_ms >= schedule.suspend_after_ms:
        return Suspend()
    if failing_ms < schedule.remind_after_ms:
        return None
    number = 1 + (failing_ms - schedule.remind_after_ms) // schedule.remind_every_ms
    if number <= standing.reminders:
        return None
    due_ms = since_ms + schedule.remind_after_ms + (number - 1) * schedule.remind_every_ms
    return Remind(number, due_ms)
