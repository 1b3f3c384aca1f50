"""The one way to write to Stripe: journal, send, record; after a doubt look, then a new key."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from billing.journal import (
    Call,
    count_attempt,
    key_of,
    last_call,
    open_call,
    record_done,
    record_problem,
)
from billing.stripe_objects import Json, Written
from schemas.clock import Clock
from schemas.errors import StripeRefusedError, StripeRetryError, StripeUncertainError
from schemas.units import MS_PER_HOUR, NS_PER_MS

KEY_TRUSTED_MS = 23 * MS_PER_HOUR
"""Stripe may forget a key once it is 24 hours old; past this we look before we send."""
MAX_GENERATIONS_A_RUN = 3

Hook = Callable[[str], None]
"""Told at every point where a crash would be different from the one before; tests crash there."""


def no_hook(_point: str) -> None:
    """What runs in production: nothing."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at Stripe showed: the thing itself, or what is still to be written."""

    written: Written | None
    rest: Json


@dataclass(frozen=True, slots=True)
class Write:
    """One write that must happen exactly once.

    `look` takes the body and says what Stripe has of it. With `look_first` it is asked before
    the very first send too, because our store may be older than what Stripe holds.
    """

    job: str
    subject: tuple[str, ...]
    step: str
    body: Json
    send: Callable[[Json, str], Written]
    look: Callable[[Json], Found]
    look_first: bool = False


class Writer:
    """Carries out `Write`s; every state it needs is in the journal."""

    def __init__(self, store: Engine, clock: Clock, hook: Hook = no_hook) -> None:
        self._store = store
        self._clock = clock
        self._hook = hook

    def write(self, write: Write) -> tuple[str, bool]:
        """Make sure that Stripe has it, once.

        Returns:
            The id of what was written, and whether it was found there instead of being sent.

        Raises:
            StripeRetryError: Not known to be done; run again later.
            StripeRefusedError: Stripe says no.
            StripeStopError: Stripe will accept nothing.
        """
        for _ in range(MAX_GENERATIONS_A_RUN):
            call = last_call(self._store, write.job, write.step)
            if call is not None and call.outcome == "ok":
                return call.result_id, bool(call.error)
            if call is None or self._is_spent(call):
                opened = self._open(write, call)
                if isinstance(opened, str):
                    return opened, True
                call = opened
            else:
                count_attempt(self._store, call.key)
            try:
                return self._send(write, call), False
            except StripeUncertainError as error:
                record_problem(self._store, call.key, "uncertain", str(error))
            except StripeRefusedError as error:
                record_problem(self._store, call.key, "refused", str(error))
                raise
        raise StripeRetryError(
            f"{write.step} of {write.job}: still uncertain after {MAX_GENERATIONS_A_RUN} keys"
        )

    def _is_spent(self, call: Call) -> bool:
        """Whether the key must not be sent again."""
        age_ms = self._now_ms() - call.opened_at_ms
        return bool(call.outcome) or age_ms > KEY_TRUSTED_MS

    def _open(self, write: Write, spent: Call | None) -> Call | str:
        """The next call to send, or the id of what Stripe turned out to have."""
        found = Found(None, write.body)
        if spent is not None or write.look_first:
            found = write.look(write.body)
        if found.written is not None and spent is not None:
            return self._found(write, spent, found.written)
        generation = spent.generation + 1 if spent else 1
        key = key_of(write.subject, write.step, generation)
        call = open_call(
            self._store,
            write.job,
            write.step,
            call=(generation, key, found.rest),
            now_ms=self._now_ms(),
        )
        self._hook(f"{write.step}:journaled")
        return self._found(write, call, found.written) if found.written else call

    def _found(self, write: Write, call: Call, written: Written) -> str:
        record_done(self._store, call.key, written, "found at Stripe")
        self._hook(f"{write.step}:recorded")
        return written.id

    def _send(self, write: Write, call: Call) -> str:
        self._hook(f"{write.step}:before_send")
        written = write.send(call.body, call.key)
        self._hook(f"{write.step}:after_send")
        record_done(self._store, call.key, written, "")
        self._hook(f"{write.step}:recorded")
        return written.id

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS
