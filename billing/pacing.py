"""Keeps calls under a rate, so that Stripe does not have to refuse them."""

import threading
import time
from collections.abc import Callable

PAUSE_AFTER_REFUSAL_S = 1.0


class Pace:
    """Hands out moments at least `1 / per_second` apart; `per_second` 0 means no limit."""

    def __init__(
        self,
        per_second: int,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gap_s = 1 / per_second if per_second else 0.0
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next_s = 0.0

    def wait(self) -> None:
        """Return when this call may go."""
        with self._lock:
            now_s = self._monotonic_s()
            at_s = max(self._next_s, now_s)
            self._next_s = at_s + self._gap_s
        if at_s > now_s:
            self._sleep(at_s - now_s)

    def slow_down(self) -> None:
        """Let nobody go for a moment, after Stripe has answered 429."""
        with self._lock:
            self._next_s = max(self._next_s, self._monotonic_s() + PAUSE_AFTER_REFUSAL_S)
