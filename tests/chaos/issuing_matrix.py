"""Every kill point of issuing, each write and fault of Stripe: one live invoice, exact.

`python -m tests.chaos.issuing_matrix` runs all 750 cells; `--cells 20 --seed 7` a sample. In each
cell a process is killed at its point while one write meets a fault, and is run again; then the
invoice fails to be paid and is paid, and its webhooks come the newest first, each twice.
"""

import argparse
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select

from billing.collecting import Collector
from billing.stripe_gateway import StripeGateway
from billing.stripe_objects import WebhookEvent
from infra.store.engine import open_store
from infra.store.migrate import upgrade
from infra.store.tables import invoices, stripe_events
from schemas.clock import SystemClock
from tests.support.forked_runs import API_KEY, ForkedRuns, forked_runs
from tests.support.one_invoice import assert_issued_once
from tests.support.planned_invoices import make_invoice, plan
from tests.support.servers.stripe_fake import StandIn, stand_in

POINTS = 25
KILLED = -9
WRITES = ("customers$", "invoices$", "add_lines$", "finalize$", "send$")
TIMEOUT_MS = 400
FAULTS: dict[str, tuple[str, dict[str, int]]] = {
    "dropped before": ("drop_before", {}),
    "dropped after": ("drop_after", {}),
    "stored 500": ("error_stored", {"status": 500}),
    "429": ("error_before", {"status": 429}),
    "409": ("error_before", {"status": 409}),
    "timeout": ("latency", {"latency_ms": 2 * TIMEOUT_MS}),
}
CELLS_A_STAND_IN = 50
"""A fresh stand-in after so many: each run lists all customers of the account."""


@dataclass(frozen=True)
class Cell:
    """Where it dies, which write meets what."""

    point: int
    write: str
    fault: str

    def __str__(self) -> str:
        return f"killed at {self.point}, {self.write} {self.fault}"


def all_cells() -> list[Cell]:
    """The whole matrix."""
    return [Cell(*one) for one in itertools.product(range(POINTS), WRITES, FAULTS)]


def sample(cells: int, seed: int) -> list[Cell]:
    """So many cells, the same for the same seed, with every fault among them."""
    everything = all_cells()
    random.Random(seed).shuffle(everything)
    first = [next(one for one in everything if one.fault == fault) for fault in FAULTS]
    return (first + [one for one in everything if one not in first])[:cells]


def run_cells(cells: Iterable[Cell], process: ForkedRuns, folder: Path) -> Counter[str]:
    """Run cells; returns how many there were of each fault.

    Raises:
        AssertionError: With the cell, if one does not end with exactly one invoice, exact.
    """
    empty = folder / "empty.db"
    upgrade(f"sqlite:///{empty}")
    done: Counter[str] = Counter()
    waiting = list(cells)
    for start in range(0, len(waiting), CELLS_A_STAND_IN):
        with stand_in(folder / f"stripe{start}") as stripe:
            for number, cell in enumerate(waiting[start : start + CELLS_A_STAND_IN], start):
                path = folder / "cell.db"
                shutil.copy(empty, path)
                try:
                    run_cell(cell, process, stripe, f"sqlite:///{path}", number)
                except AssertionError as error:
                    error.add_note(str(cell))
                    raise
                done[cell.fault] += 1
                for left in folder.glob("cell.db*"):
                    left.unlink()
    return done


def run_cell(cell: Cell, process: ForkedRuns, stripe: StandIn, url: str, number: int) -> None:
    """One cell: die, come back, be paid."""
    kind, details = FAULTS[cell.fault]
    store, gateway = open_store(url), StripeGateway(API_KEY, stripe.base)
    try:
        invoice = plan(store, make_invoice(f"tenant-{number}"))
        stripe.clear_faults()
        stripe.plant("POST", cell.write, kind, **details)
        ended = process.run(url, stripe.base, die_at=cell.point, timeout_ms=TIMEOUT_MS)
        # A key that Stripe has spoilt costs more writes, so the point may not be reached.
        assert ended in (KILLED, 0)
        assert process.run(url, stripe.base, timeout_ms=TIMEOUT_MS) == 0
        stripe.clear_faults()
        assert_issued_once(store, gateway, stripe.base, invoice)
        assert_paid_once(store, gateway, stripe, invoice.id)
    finally:
        gateway.close()
        store.dispose()


def assert_paid_once(
    store: Engine, gateway: StripeGateway, stripe: StandIn, invoice_id: str
) -> None:
    """Fail and pay, then hear of it the wrong way round and twice."""
    with store.connect() as connection:
        wanted = select(invoices.c.stripe_invoice).where(invoices.c.id == invoice_id)
        made = str(connection.execute(wanted).scalar_one())
    stripe.fail_payment(made)
    gateway._api.invoices.pay(made)
    collector = Collector(store, gateway, SystemClock())
    for kind in ("paid", "paid", "payment_failed", "payment_failed"):
        collector.take(made, WebhookEvent(f"evt_{kind}", f"invoice.{kind}", made, 1))
    with store.connect() as connection:
        row = connection.execute(select(invoices).where(invoices.c.id == invoice_id)).one()
        events = connection.execute(select(stripe_events.c.id)).all()
    assert (row.state, row.stripe_status, len(events)) == ("paid", "paid", 2)


def main() -> None:
    """Run a sample, or everything, and print how many cells there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=len(all_cells()))
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    began = time.monotonic()
    cells = sample(arguments.cells, arguments.seed)
    with forked_runs() as process, tempfile.TemporaryDirectory(prefix="rentroll-matrix-") as folder:
        done = run_cells(cells, process, Path(folder))
    counts = ", ".join(f"{fault} {count}" for fault, count in sorted(done.items()))
    sys.stdout.write(
        f"{done.total()} cells ({counts}) in {time.monotonic() - began:.0f} s:"
        " one live invoice each, exact, mailed once, paid once\n"
    )


if __name__ == "__main__":
    main()
