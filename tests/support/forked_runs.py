"""A process that issues invoices in children of its own and kills them at a chosen point.

Reads one JSON object a line, answers with the child's wait status as JSON. The children are
forked after the imports, so that a kill costs milliseconds and is a real SIGKILL all the same.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module

from billing.invoice_run import InvoiceRun
from billing.stripe_gateway import LOCAL, GatewayLimits, StripeGateway
from infra.store.engine import open_store
from schemas.clock import SystemClock
from schemas.errors import StripeRetryError
from schemas.units import NS_PER_S
from tests.support.planned_invoices import PERIOD

API_KEY = "sk_test_rentroll"
NEVER = -1


class LaterClock:
    """The wall clock, moved forward."""

    def __init__(self, later_s: int = 0) -> None:
        self.later_s = later_s

    def now_ns(self) -> int:
        return SystemClock().now_ns() + self.later_s * NS_PER_S


class ForkedRuns:
    """The other end: says what to run and where to die."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self,
        store_url: str,
        base: str,
        *,
        die_at: int = NEVER,
        later_s: int = 0,
        timeout_ms: int = 30_000,
    ) -> int:
        """Run the period's invoices; returns minus the signal that ended it, or its exit code.

        It dies at the hook with number `die_at`, if it gets there, and waits `timeout_ms` for an
        answer of Stripe's.
        """
        order = {"store_url": store_url, "base": base, "die_at": die_at, "later_s": later_s}
        order["timeout_ms"] = timeout_ms
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline()))


@contextmanager
def forked_runs() -> Iterator[ForkedRuns]:
    """Start the process and stop it."""
    command = [sys.executable, "-m", "tests.support.forked_runs"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield ForkedRuns(process)
    finally:
        process.communicate(timeout=10)


def issue(store_url: str, base: str, die_at: int, later_s: int, timeout_ms: int) -> None:
    """One life: issue everything of the period, or die at a hook."""
    passed = 0

    def hook(_point: str) -> None:
        nonlocal passed
        if passed == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1

    store = open_store(store_url)
    limits = replace(LOCAL, read_timeout_s=timeout_ms / 1000)
    gateway = StripeGateway(API_KEY, base, limits=limits)
    run = InvoiceRun(store, gateway, LaterClock(later_s), hook)
    result = run.run(PERIOD, 1, lambda _done, _all: None)
    if not result.is_complete:
        sys.stderr.write(f"{result}\n")
        os._exit(1)


def warm_up() -> None:
    """Import what the SDK and the database drivers import at their first use."""
    import_module("psycopg")
    nobody = StripeGateway(API_KEY, "http://127.0.0.1:9", limits=GatewayLimits(attempts=1))
    calls: tuple[Callable[[], object], ...] = (
        lambda: list(nobody.customers()),
        lambda: list(nobody.invoices()),
        lambda: nobody.was_sent("in_1", 0),
    )
    for call in calls:
        with suppress(StripeRetryError):
            call()
    nobody.close()


def main() -> None:
    warm_up()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                issue(**order)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(json.dumps(os.waitstatus_to_exitcode(status)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
