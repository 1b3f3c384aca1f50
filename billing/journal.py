"""The journal of Stripe writes: body and key are committed here before a request leaves."""

import json
from dataclasses import dataclass

from sqlalchemy import Engine, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError

from billing.stripe_objects import Json, Written
from infra.store.tables import stripe_calls
from schemas.errors import ConservationError
from schemas.ids import derived_hex

MAX_ERROR = 500
"""Characters of an error that are kept."""
_KEY_DIGITS = 48
_MAX_JOB = 64


@dataclass(frozen=True, slots=True)
class Call:
    """One journaled write; `outcome` is empty until Stripe's answer is recorded."""

    step: str
    generation: int
    key: str
    body: Json
    opened_at_ms: int
    attempts: int
    outcome: str
    result_id: str
    request_id: str
    error: str


def key_of(subject: tuple[str, ...], step: str, generation: int) -> str:
    """The idempotency key of a write: derived, so that whoever repeats it sends the same.

    It names what is written about (tenant, period, currency, revision), not the figures: if a
    lost store is planned again and comes to other figures, Stripe refuses the second body
    instead of making a second invoice.
    """
    return f"rr1_{derived_hex(*subject, step, str(generation))[:_KEY_DIGITS]}"


def customer_job(tenant: str) -> str:
    """The job that creates a tenant's customer; a long name is hashed to fit its column."""
    job = f"customer:{tenant}"
    return job if len(job) <= _MAX_JOB else f"customer:{derived_hex(tenant)[:_KEY_DIGITS]}"


def last_call(store: Engine, job: str, step: str) -> Call | None:
    """The newest generation of a step."""
    with store.connect() as connection:
        newest_first = (
            select(stripe_calls)
            .where(stripe_calls.c.invoice_id == job, stripe_calls.c.step == step)
            .order_by(stripe_calls.c.generation.desc())
        )
        row = connection.execute(newest_first.limit(1)).mappings().one_or_none()
    return _call(row) if row is not None else None


def calls_of(store: Engine, job: str) -> list[Call]:
    """Everything that was written for a job, in order."""
    with store.connect() as connection:
        rows = connection.execute(
            select(stripe_calls)
            .where(stripe_calls.c.invoice_id == job)
            .order_by(stripe_calls.c.opened_at_ms, stripe_calls.c.step, stripe_calls.c.generation)
        ).mappings()
        return [_call(row) for row in rows]


def open_call(
    store: Engine, job: str, step: str, *, call: tuple[int, str, Json], now_ms: int
) -> Call:
    """Commit a write before it is sent; `call` is its generation, key and body.

    Where another runner was faster, its row stands and is returned: the body to send is the one
    that was journaled, whoever did it.
    """
    generation, key, body = call
    try:
        with store.begin() as connection:
            connection.execute(
                insert(stripe_calls).values(
                    invoice_id=job,
                    step=step,
                    generation=generation,
                    idempotency_key=key,
                    params=json.dumps(body, sort_keys=True),
                    opened_at_ms=now_ms,
                    attempts=1,
                )
            )
    except IntegrityError:
        pass  # The row is there already: read below.
    found = last_call(store, job, step)
    if found is None:
        raise ConservationError(
            f"idempotency key {key} of step {step} belongs to another job than {job}"
        )
    return found


def count_attempt(store: Engine, key: str) -> None:
    """Note that a journaled write is about to be sent once more."""
    statement = update(stripe_calls).where(stripe_calls.c.idempotency_key == key)
    with store.begin() as connection:
        connection.execute(statement.values(attempts=stripe_calls.c.attempts + 1))


def record_done(store: Engine, key: str, written: Written, note: str) -> None:
    """Stripe has it; `note` says so where that was found by looking."""
    _record(
        store,
        key,
        outcome="ok",
        result_id=written.id,
        request_id=written.request_id,
        error=note or None,
    )


def record_problem(store: Engine, key: str, outcome: str, error: str) -> None:
    """The key is of no more use: `uncertain` or `refused`."""
    _record(store, key, outcome=outcome, error=error[:MAX_ERROR])


def _record(store: Engine, key: str, **values: str | None) -> None:
    statement = update(stripe_calls).where(stripe_calls.c.idempotency_key == key)
    with store.begin() as connection:
        connection.execute(statement.values(**values))


def _call(row: RowMapping) -> Call:
    return Call(
        step=row["step"],
        generation=row["generation"],
        key=row["idempotency_key"],
        body=json.loads(row["params"]),
        opened_at_ms=row["opened_at_ms"],
        attempts=row["attempts"],
        outcome=row["outcome"] or "",
        result_id=row["result_id"] or "",
        request_id=row["request_id"] or "",
        error=row["error"] or "",
    )
