"""Issuing one invoice against Stripe's faults, lost stores, tampering, and planted bugs."""

import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from billing.issuer import CHECK_MAIL, Issuer
from billing.issuer_protocol import Hook, no_hook
from billing.journal import calls_of
from billing.stripe_gateway import LOCAL, StripeGateway
from billing.stripe_objects import Json, Written
from infra.store.engine import open_store
from infra.store.tables import invoices, tenants
from schemas.errors import InvoiceHeldError, StripeRetryError
from tests.support.forked_runs import LaterClock
from tests.support.one_invoice import assert_issued_once, sent
from tests.support.planned_invoices import make_invoice, plan
from tests.support.servers.stripe_fake import StandIn

DAY_AND_AN_HOUR_S = 25 * 3600
_numbers = itertools.count(1)


class CrashError(BaseException):
    """The process is gone."""


def crash_at(point: str) -> Hook:
    def hook(reached: str) -> None:
        if reached == point:
            raise CrashError(point)

    return hook


def issuer(
    store: Engine, gateway: StripeGateway, *, hook: Hook = no_hook, later_s: int = 0
) -> Issuer:
    return Issuer(store, gateway, LaterClock(later_s), hook=hook)


def tenant() -> str:
    return f"tenant-{next(_numbers)}"


def held_because(store: Engine, invoice_id: str) -> str:
    with store.connect() as connection:
        row = connection.execute(select(invoices).where(invoices.c.id == invoice_id)).one()
    assert row.state == "held"
    return str(row.hold_reason)


@pytest.mark.parametrize("models", [1, 62], ids=["4 lines", "248 lines in 3 calls"])
def test_an_invoice_is_issued_exactly(
    store: Engine, stripe: StandIn, gateway: StripeGateway, models: int
) -> None:
    invoice = plan(store, make_invoice(tenant(), models=models))
    assert issuer(store, gateway).issue(invoice.id) == "issued"
    assert_issued_once(store, gateway, stripe.base, invoice)


ONCE = [
    ("drop_before", 0, 1),
    ("drop_after", 0, 1),
    ("error_before", 429, 1),
    ("error_before", 409, 1),
    ("error_before", 503, 1),
    ("error_after", 500, 1),
    ("error_stored", 500, 1),
]
PAST_ALL_RETRIES = [("drop_after", 0, 7), ("error_after", 500, 7)]


@pytest.mark.parametrize(
    "fault", ONCE + PAST_ALL_RETRIES, ids=lambda fault: "-".join(map(str, fault))
)
@pytest.mark.parametrize("path", ["customers$", "invoices$", "add_lines$", "finalize$", "send$"])
def test_no_fault_of_stripe_doubles_or_loses(
    sqlite: Engine,
    stripe: StandIn,
    gateway: StripeGateway,
    fault: tuple[str, int, int],
    path: str,
) -> None:
    kind, status, times = fault
    invoice = plan(sqlite, make_invoice(tenant()))
    stripe.plant("POST", path, kind, times=times, status=status)
    for _ in range(10):
        try:
            issuer(sqlite, gateway).issue(invoice.id)
        except StripeRetryError:
            continue
        break
    assert_issued_once(sqlite, gateway, stripe.base, invoice)


def test_an_answer_slower_than_the_timeout_is_a_lost_answer(
    sqlite: Engine, stripe: StandIn
) -> None:
    impatient = StripeGateway(
        "sk_test_rentroll", stripe.base, limits=replace(LOCAL, read_timeout_s=0.3)
    )
    stripe.plant("POST", "finalize$", "latency", latency_ms=900)
    invoice = plan(sqlite, make_invoice(tenant()))
    issuer(sqlite, impatient).issue(invoice.id)
    assert_issued_once(sqlite, impatient, stripe.base, invoice)
    (finalize,) = [call for call in calls_of(sqlite, invoice.id) if call.step == "finalize"]
    assert (finalize.generation, finalize.outcome) == (1, "ok")
    impatient.close()


def test_the_journal_holds_the_body_before_it_is_sent(
    store: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    invoice = plan(store, make_invoice(tenant()))
    with pytest.raises(CrashError):
        issuer(store, gateway, hook=crash_at("lines0:before_send")).issue(invoice.id)
    made, lines = calls_of(store, invoice.id)
    assert (lines.step, lines.outcome, lines.attempts) == ("lines0", "", 1)
    assert [line["amount"] for line in reversed(lines.body["lines"])] == [
        line.amount_minor for line in invoice.lines
    ]
    assert stripe.exchanges("POST", f"/v1/invoices/{made.result_id}/add_lines") == []
    issuer(store, gateway).issue(invoice.id)
    (sent_once,) = stripe.exchanges("POST", f"/v1/invoices/{made.result_id}/add_lines")
    assert sent_once["key"] == lines.key


def test_a_key_older_than_a_day_is_never_sent_again(
    sqlite: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    invoice = plan(sqlite, make_invoice(tenant()))
    with pytest.raises(CrashError):
        issuer(sqlite, gateway, hook=crash_at("create:before_send")).issue(invoice.id)
    later = issuer(sqlite, gateway, later_s=DAY_AND_AN_HOUR_S)
    later.issue(invoice.id)
    assert_issued_once(sqlite, gateway, stripe.base, invoice)


def test_a_spent_key_is_followed_by_the_next_generation(
    store: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    invoice = plan(store, make_invoice(tenant()))
    stripe.plant("POST", "finalize$", "error_stored")
    issuer(store, gateway).issue(invoice.id)
    finalize = [call for call in calls_of(store, invoice.id) if call.step == "finalize"]
    assert [(call.generation, call.outcome) for call in finalize] == [(1, "uncertain"), (2, "ok")]
    assert_issued_once(store, gateway, stripe.base, invoice)


@pytest.mark.parametrize(
    "point", ["create:recorded", "lines0:after_send", "left:lined", "finalize:after_send"]
)
def test_a_store_restored_from_its_backup_adopts_what_stripe_has(
    tmp_path: Path, migrated_sqlite_file: Path, stripe: StandIn, gateway: StripeGateway, point: str
) -> None:
    lost, backup = tmp_path / "lost.db", tmp_path / "backup.db"
    shutil.copy(migrated_sqlite_file, backup)
    restored = open_store(f"sqlite:///{backup}")
    invoice = plan(restored, make_invoice(tenant()))
    restored.dispose()
    shutil.copy(backup, lost)
    first = open_store(f"sqlite:///{lost}")
    with pytest.raises(CrashError):
        issuer(first, gateway, hook=crash_at(point)).issue(invoice.id)
    first.dispose()
    issuer(restored, gateway, later_s=DAY_AND_AN_HOUR_S).issue(invoice.id)
    assert_issued_once(restored, gateway, stripe.base, invoice)
    restored.dispose()


def test_a_draft_that_somebody_changed_is_held(
    store: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    invoice = plan(store, make_invoice(tenant()))
    with pytest.raises(CrashError):
        issuer(store, gateway, hook=crash_at("left:drafted")).issue(invoice.id)
    made = calls_of(store, invoice.id)[0].result_id
    gateway.add_lines(made, {"lines": [{"amount": 100_000, "description": "gift"}]}, f"k-{made}")
    with pytest.raises(InvoiceHeldError, match="only Stripe has line"):
        issuer(store, gateway).issue(invoice.id)
    assert "is not ours" in held_because(store, invoice.id)
    assert gateway.invoice(made).status == "draft"
    assert made not in sent(stripe.base)


def test_a_draft_that_somebody_finalized_is_held(
    sqlite: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    invoice = plan(sqlite, make_invoice(tenant()))
    with pytest.raises(CrashError):
        issuer(sqlite, gateway, hook=crash_at("left:drafted")).issue(invoice.id)
    made = calls_of(sqlite, invoice.id)[0].result_id
    gateway.finalize(made, {}, f"k-{made}")
    with pytest.raises(InvoiceHeldError, match="should be a draft and is open"):
        issuer(sqlite, gateway).issue(invoice.id)


def test_other_figures_for_the_same_period_are_held(
    tmp_path: Path, migrated_sqlite_file: Path, stripe: StandIn, gateway: StripeGateway
) -> None:
    name = tenant()
    stores = []
    for number in range(2):
        file = tmp_path / f"{number}.db"
        shutil.copy(migrated_sqlite_file, file)
        stores.append(open_store(f"sqlite:///{file}"))
    issuer(stores[0], gateway).issue(plan(stores[0], make_invoice(name)).id)
    rebuilt = plan(stores[1], make_invoice(name, models=2))
    with pytest.raises(InvoiceHeldError, match="made from other figures"):
        issuer(stores[1], gateway).issue(rebuilt.id)
    for store in stores:
        store.dispose()


def test_more_lines_than_stripe_takes_leave_nothing_at_stripe(
    sqlite: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    name = tenant()
    invoice = plan(sqlite, make_invoice(name, models=63))
    with pytest.raises(InvoiceHeldError, match="252 lines"):
        issuer(sqlite, gateway).issue(invoice.id)
    assert "252 lines" in held_because(sqlite, invoice.id)
    assert name not in [data.get("tenant") for _, data in gateway.customers()]


def test_a_refusal_of_stripe_is_the_reason_of_the_hold(
    sqlite: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    # KWD has three decimals, of which Stripe charges two.
    invoice = make_invoice(tenant(), currency="KWD")
    assert invoice.lines[0].amount_minor % 10
    plan(sqlite, invoice)
    with pytest.raises(InvoiceHeldError, match="multiple of 10"):
        issuer(sqlite, gateway).issue(invoice.id)
    assert "HTTP 400" in held_because(sqlite, invoice.id)


def test_a_customer_that_names_the_tenant_is_adopted(
    sqlite: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    name = tenant()
    known = gateway.create_customer({"name": "x", "metadata": {"tenant": name}}, f"k-{name}")
    invoice = plan(sqlite, make_invoice(name))
    issuer(sqlite, gateway).issue(invoice.id)
    assert_issued_once(sqlite, gateway, stripe.base, invoice)
    with sqlite.connect() as connection:
        row = connection.execute(select(tenants).where(tenants.c.tenant == name)).one()
    assert row.stripe_customer == known.id


def test_two_customers_of_one_tenant_hold_its_invoice(
    sqlite: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    name = tenant()
    for number in range(2):
        gateway.create_customer({"metadata": {"tenant": name}}, f"k-{name}-{number}")
    invoice = plan(sqlite, make_invoice(name))
    with pytest.raises(InvoiceHeldError, match="several customers"):
        issuer(sqlite, gateway).issue(invoice.id)


def test_nothing_to_pay_and_too_little_to_collect_are_issued_without_a_mail(
    sqlite: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    nothing = plan(
        sqlite, make_invoice(tenant()).model_copy(update={"lines": (), "total_minor": 0})
    )
    small = make_invoice(tenant())
    line = small.lines[0].model_copy(update={"amount_minor": 49})
    small = plan(sqlite, small.model_copy(update={"lines": (line,), "total_minor": 49}))
    for invoice in (nothing, small):
        issuer(sqlite, gateway).issue(invoice.id)
        with sqlite.connect() as connection:
            row = connection.execute(select(invoices).where(invoices.c.id == invoice.id)).one()
        assert (row.state, row.stripe_status) == ("issued", "paid")
        found = gateway.invoice(row.stripe_invoice)
        assert (found.total_minor, found.amount_due_minor) == (invoice.total_minor, 0)
        assert found.id not in sent(stripe.base)


def test_a_mail_that_nobody_can_trace_any_more_is_flagged_and_not_sent_again(
    store: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    invoice = plan(store, make_invoice(tenant()))
    with pytest.raises(CrashError):
        issuer(store, gateway, hook=crash_at("send:after_send")).issue(invoice.id)
    issuer(store, gateway, later_s=40 * 86_400).issue(invoice.id)
    with store.connect() as connection:
        row = connection.execute(select(invoices).where(invoices.c.id == invoice.id)).one()
    assert (row.state, row.hold_reason) == ("issued", CHECK_MAIL)
    assert sent(stripe.base).count(row.stripe_invoice) == 1


class ForgetsKeys(StripeGateway):
    """A planted bug: every attempt at a new invoice has a key of its own."""

    def create_invoice(self, body: Json, key: str) -> Written:
        return super().create_invoice(body, f"{key}-{next(_numbers)}")


class AddsOneCent(StripeGateway):
    """A planted bug: what is sent is not what was journaled."""

    def add_lines(self, invoice: str, body: Json, key: str) -> Written:
        first, *rest = body["lines"]
        return super().add_lines(
            invoice, {"lines": [first | {"amount": first["amount"] + 1}, *rest]}, key
        )


class NeverLooks(StripeGateway):
    """A planted bug: a look at the draft shows no lines, so they are added again."""

    def lines(self, invoice: str) -> list[object]:  # type: ignore[override]
        return []


def test_a_key_that_changes_between_attempts_is_caught(
    sqlite: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    buggy = ForgetsKeys("sk_test_rentroll", stripe.base, limits=LOCAL)
    invoice = plan(sqlite, make_invoice(tenant()))
    with pytest.raises(CrashError):
        issuer(sqlite, buggy, hook=crash_at("create:after_send")).issue(invoice.id)
    issuer(sqlite, buggy).issue(invoice.id)
    with pytest.raises(AssertionError, match="2 live invoices"):
        assert_issued_once(sqlite, gateway, stripe.base, invoice)
    buggy.close()


def test_a_cent_too_much_is_caught_before_the_invoice_leaves(
    sqlite: Engine, stripe: StandIn
) -> None:
    buggy = AddsOneCent("sk_test_rentroll", stripe.base, limits=LOCAL)
    invoice = plan(sqlite, make_invoice(tenant()))
    with pytest.raises(InvoiceHeldError, match=re.escape("total is 4230, ours is 4229")):
        issuer(sqlite, buggy).issue(invoice.id)
    buggy.close()


def test_lines_added_twice_are_caught_before_the_invoice_leaves(
    sqlite: Engine, stripe: StandIn
) -> None:
    buggy = NeverLooks("sk_test_rentroll", stripe.base, limits=LOCAL)
    invoice = plan(sqlite, make_invoice(tenant()))
    with pytest.raises(CrashError):
        issuer(sqlite, buggy, hook=crash_at("lines0:after_send")).issue(invoice.id)
    with pytest.raises(InvoiceHeldError, match="only Stripe has line"):
        issuer(sqlite, buggy, later_s=DAY_AND_AN_HOUR_S).issue(invoice.id)
    buggy.close()
