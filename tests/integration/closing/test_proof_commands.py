"""`rentroll proof` over closed and planned usage, and docs/verify.py as a stranger runs it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from billing.planned_invoices import PlannedInvoice
from billing.planning import plan_period
from billing.settings import BillingSettings
from rentroll.proof_making import make_proof
from schemas.billing import Invoice
from schemas.errors import ConservationError
from schemas.proofs import PeriodProof, events_root
from streams.settings import StreamSettings
from tests.support.billing_examples import OCTOBER, book_of, unit_price
from tests.support.closing import Books
from tests.support.command_line import Rentroll
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, Record

VERIFY = Path(__file__).parents[3] / "docs" / "verify.py"
BOOK = book_of(unit_price("input", "1"))
TENANTS = ("acme", "globex")


def three_hours() -> tuple[HostScript, dict[str, list[Record]]]:
    """Two tenants' requests over three hours of October, from one host that is closed."""
    host = HostScript("a")
    sent: dict[str, list[Record]] = {tenant: [] for tenant in TENANTS}
    for hour in range(3):
        for number in range(4):
            tenant = TENANTS[number % 2]
            sent[tenant].append(host.request(OCTOBER_MS + hour * HOUR_MS + number * 1000, tenant))
        host.interval(OCTOBER_MS + (hour + 1) * HOUR_MS)
    host.closed(OCTOBER_MS + 3 * HOUR_MS)
    return host, sent


@pytest.fixture
def sent(books: Books) -> dict[str, list[Record]]:
    host, sent = three_hours()
    books.register(host)
    books.writer.write(host.records)
    return sent


def planned(books: Books) -> dict[str, PlannedInvoice]:
    books.close(period=OCTOBER)
    result = plan_period(
        books.client, books.store, OCTOBER, BOOK, clock=books.clock, settings=BillingSettings()
    )
    return {one.invoice.tenant: one for one in result.invoices}


def proof_of(books: Books, invoice: Invoice) -> PeriodProof:
    return make_proof(books.client, books.store, invoice, only=None, settings=StreamSettings())


def stranger(proof: Path, root: str, *events: Path) -> "subprocess.CompletedProcess[str]":
    """Without our packages, and without anything else that is installed."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(VERIFY), str(proof), root, *map(str, events)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_invoice_is_proven_to_its_tenant_and_to_a_stranger(
    books: Books, sent: dict[str, list[Record]], rentroll: Rentroll, tmp_path: Path
) -> None:
    invoice = planned(books)["acme"].invoice
    file = tmp_path / "acme.proof.json"

    made = rentroll.run("proof", "make", invoice.id[:12], "--output", str(file))

    assert made.returncode == 0, made.stderr
    assert "6 events in 3 of 3 hours" in made.stdout
    proof = PeriodProof.model_validate_json(file.read_bytes())
    listed = sorted(one for content in proof.contents for one in content.hashes)
    assert listed == sorted(record.content_hash.hex() for record in sent["acme"])
    mine, others = tmp_path / "mine.json", tmp_path / "others.json"
    mine.write_bytes(sent["acme"][2].value + b"\n")
    others.write_bytes(sent["globex"][0].value)
    verified = rentroll.run("proof", "verify", str(file), str(mine))
    assert verified.returncode == 0, verified.stderr
    refused = rentroll.run("proof", "verify", str(file), str(mine), str(others))
    assert "event 2 is not in the contents" in " ".join(refused.stderr.split())
    assert refused.returncode == 1
    trusted = stranger(file, invoice.events_root, mine)
    assert (trusted.returncode, trusted.stdout) == (
        0,
        "holds: 6 events in 3 of 3 hours with usage of acme in 2026-10\n",
    )
    foreign = stranger(file, invoice.events_root, others)
    assert (foreign.returncode, foreign.stdout) == (1, "event 1 is not in the contents\n")


def test_one_hour_is_enough_for_one_event(
    books: Books, sent: dict[str, list[Record]], rentroll: Rentroll, tmp_path: Path
) -> None:
    invoice = planned(books)["acme"].invoice
    file, event = tmp_path / "hour.json", tmp_path / "event.json"
    event.write_bytes(sent["acme"][2].value)
    rentroll.run("proof", "make", invoice.id, "--hour", "2026-10-01T01", "--output", str(file))
    found = stranger(file, invoice.events_root, event)
    assert found.stdout == "holds: 2 events in 1 of 3 hours with usage of acme in 2026-10\n"
    unused = rentroll.run(
        "proof", "make", invoice.id, "--hour", "2026-10-05T01", "--output", str(file)
    )
    assert "has no usage in" in unused.stderr


def drop_event(proof: dict[str, Any]) -> None:
    proof["contents"][0]["hashes"].pop()


def swap_event(proof: dict[str, Any]) -> None:
    proof["contents"][0]["hashes"][0] = "0" * 32


def drop_hour(proof: dict[str, Any]) -> None:
    proof["hours"].pop(1)


def reorder(proof: dict[str, Any]) -> None:
    proof["hours"].reverse()


def recount(proof: dict[str, Any]) -> None:
    proof["hours"][0]["events"] += 1


def rename(proof: dict[str, Any]) -> None:
    proof["tenant"] = "globex"


def move(proof: dict[str, Any]) -> None:
    proof["hours"][0]["hour"] = "2026-09-30T23:00Z"


@pytest.mark.parametrize(
    "plant", [drop_event, swap_event, drop_hour, reorder, recount, rename, move]
)
@pytest.mark.usefixtures("sent")
def test_changed_proof_holds_for_neither(
    books: Books, tmp_path: Path, plant: Callable[[dict[str, Any]], None]
) -> None:
    invoice = planned(books)["acme"].invoice
    content = json.loads(proof_of(books, invoice).canonical_json())
    plant(content)
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(content))
    found = stranger(file, invoice.events_root)
    ours = PeriodProof.model_validate_json(json.dumps(content)).faults(invoice.events_root)
    assert found.returncode == 1
    assert ours == found.stdout.splitlines() != []


def test_proof_is_of_the_runs_that_the_invoice_names(
    books: Books, sent: dict[str, list[Record]]
) -> None:
    invoice = planned(books)["acme"].invoice
    before = proof_of(books, invoice)
    late = HostScript("b", host="host-2")
    late.request(OCTOBER_MS + 5000)
    late.interval(OCTOBER_MS + HOUR_MS)
    late.closed(OCTOBER_MS + HOUR_MS)
    books.register(late)
    books.writer.write(late.records)
    assert books.close(period=OCTOBER).hours[0].changed
    assert proof_of(books, invoice) == before
    assert len(before.contents[0].hashes) == 2


@pytest.mark.usefixtures("sent")
def test_ledger_that_lost_what_was_proven_makes_no_proof(books: Books) -> None:
    invoice = planned(books)["globex"].invoice
    books.client.command(
        "ALTER TABLE run_tenants DELETE WHERE tenant = 'globex' AND events = 2"
        " AND hour = '2026-10-01 01:00:00' SETTINGS mutations_sync = 2"
    )
    with pytest.raises(ConservationError, match="the ledger's hours of globex 2026-10 lead to"):
        proof_of(books, invoice)
    # Closing again writes what is missing under the same run.
    books.close(period=OCTOBER)
    assert events_root("globex", proof_of(books, invoice).hours) == invoice.events_root


def test_tenant_without_usage_has_the_root_of_nothing() -> None:
    assert events_root("nobody", ()) == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
