"""Rules that the databases keep themselves: append-only tables, frozen invoices."""

from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Table, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from infra.store.tables import (
    archive_heads,
    decisions,
    invoices,
    periods,
    price_books,
    rollup_runs,
    sources,
    stripe_calls,
    tenants,
)

APPEND_ONLY: dict[Table, dict[str, Any]] = {
    archive_heads: {
        "topic": "usage.v1",
        "partition": 0,
        "number": 1,
        "end_offset": 1,
        "sha256": "a" * 64,
        "recorded_at_ms": 1,
    },
    decisions: {
        "position": 1,
        "kind": "declared-loss",
        "subject": "{}",
        "reason": "disk died",
        "decided_by": "ada",
        "decided_at_ms": 1,
    },
    price_books: {
        "sha256": "a" * 64,
        "name": "2026-Q4",
        "body": "{}",
        "imported_by": "ada",
        "imported_at_ms": 1,
    },
    sources: {
        "source": "s",
        "host": "gpu-7",
        "public_key": "ab" * 32,
        "registered_by": "ada",
        "registered_at_ms": 1,
        "reason": "new",
    },
    rollup_runs: {
        "run_id": "b" * 64,
        "hour_ms": 0,
        "position": 1,
        "digest": "c" * 64,
        "offsets": "{}",
        "rules_version": "1",
        "decisions_position": 0,
        "events": 1,
        "rows": 1,
        "published_at_ms": 1,
    },
}
TENANT = {
    "tenant": "acme",
    "name": "Acme",
    "email": "billing@acme.example",
    "currency": "USD",
    "net_days": 30,
    "created_at_ms": 1,
}
INVOICE = {
    "id": "acme-2026-10",
    "tenant": "acme",
    "period": "2026-10",
    "revision": 0,
    "currency": "USD",
    "state": "planned",
    "total_minor": 100,
    "body": "{}",
    "planned_at_ms": 1,
    "hold_reason": "",
    "adopted": 0,
    "lease_until_ms": 0,
}
CALL = {
    "invoice_id": "acme-2026-10",
    "step": "create",
    "generation": 1,
    "idempotency_key": "key",
    "params": "{}",
    "opened_at_ms": 1,
    "attempts": 0,
}
FROZEN = {
    "id": "other",
    "tenant": "b",
    "period": "2026-11",
    "currency": "EUR",
    "revision": 1,
    "total_minor": 101,
    "body": '{"a":1}',
}
FREE_STATES = ("planned", "held")
FROZEN_STATES = (
    "drafted",
    "lined",
    "verified",
    "finalized",
    "issued",
    "paid",
    "void",
    "uncollectible",
    "carried",
    "empty",
)


def insert_invoice(connection: Connection, **changes: Any) -> None:
    connection.execute(insert(tenants), [TENANT, TENANT | {"tenant": "b"}])
    connection.execute(insert(invoices).values(INVOICE | changes))


def stored_invoice(store: Engine) -> dict[str, Any]:
    with store.connect() as connection:
        return dict(connection.execute(select(invoices)).mappings().one())


@pytest.mark.parametrize("table", APPEND_ONLY, ids=lambda table: table.name)
@pytest.mark.parametrize("change", ["update", "delete"])
def test_append_only_table_refuses_change(store: Engine, table: Table, change: str) -> None:
    row = APPEND_ONLY[table]
    with store.begin() as connection:
        connection.execute(insert(table).values(row))
    altered = update(table).values(row) if change == "update" else delete(table)
    with (
        pytest.raises(IntegrityError, match=f"{table.name} is append-only"),
        store.begin() as connection,
    ):
        connection.execute(altered)
    with store.connect() as connection:
        assert dict(connection.execute(select(table)).mappings().one()) == row


@pytest.mark.parametrize("table", [*APPEND_ONLY, invoices], ids=lambda table: table.name)
def test_no_statement_of_one_database_goes_round_the_rule(store: Engine, table: Table) -> None:
    with store.begin() as connection:
        if table is invoices:
            insert_invoice(connection)
        else:
            connection.execute(insert(table).values(APPEND_ONLY[table]))
        row = dict(connection.execute(select(table)).mappings().one())
    names = ", ".join(row)
    places = ", ".join(f":{name}" for name in row)
    round_about = {
        "sqlite": f"INSERT OR REPLACE INTO {table.name} ({names}) VALUES ({places})",
        "postgresql": f"TRUNCATE {table.name} CASCADE",
    }
    with (
        pytest.raises(IntegrityError, match=r"append-only|cannot be deleted"),
        store.begin() as connection,
    ):
        connection.execute(text(round_about[store.dialect.name]), row)


@pytest.mark.parametrize("state", FROZEN_STATES)
def test_invoice_in_any_state_beyond_planned_is_frozen(store: Engine, state: str) -> None:
    with store.begin() as connection:
        insert_invoice(connection, state=state)
    with pytest.raises(IntegrityError, match="frozen"), store.begin() as connection:
        connection.execute(update(invoices).values(total_minor=101))


@pytest.mark.parametrize("column", FROZEN)
def test_no_frozen_column_of_an_invoice_changes(store: Engine, column: str) -> None:
    with store.begin() as connection:
        insert_invoice(connection, state="issued")
    before = stored_invoice(store)
    with pytest.raises(IntegrityError, match="frozen"), store.begin() as connection:
        connection.execute(update(invoices).values({column: FROZEN[column]}))
    assert stored_invoice(store) == before


@pytest.mark.parametrize("state", FREE_STATES)
def test_invoice_that_nobody_was_told_of_can_be_planned_anew(store: Engine, state: str) -> None:
    with store.begin() as connection:
        insert_invoice(connection, state=state)
        connection.execute(update(invoices).values(FROZEN | {"state": "planned"}))
    assert FROZEN.items() <= stored_invoice(store).items()


@pytest.mark.parametrize("state", FREE_STATES)
@pytest.mark.parametrize("column", FROZEN)
def test_invoice_is_frozen_once_a_call_is_journaled(store: Engine, column: str, state: str) -> None:
    with store.begin() as connection:
        insert_invoice(connection, state=state)
        connection.execute(insert(stripe_calls).values(CALL))
    with pytest.raises(IntegrityError, match="frozen"), store.begin() as connection:
        connection.execute(update(invoices).values(total_minor=101))


def test_frozen_invoice_still_goes_through_its_states(store: Engine) -> None:
    with store.begin() as connection:
        insert_invoice(connection, state="finalized")
        connection.execute(
            update(invoices).values(state="issued", number="R-1", body="{}", total_minor=100)
        )
    assert stored_invoice(store)["state"] == "issued"


def test_invoice_cannot_be_deleted(store: Engine) -> None:
    with store.begin() as connection:
        insert_invoice(connection)
    with (
        pytest.raises(IntegrityError, match="an invoice cannot be deleted"),
        store.begin() as connection,
    ):
        connection.execute(delete(invoices))


def test_period_of_an_unknown_tenant_is_refused(store: Engine) -> None:
    row = {"tenant": "nobody", "period": "2026-10", "state": "open", "changed_at_ms": 1}
    with pytest.raises(IntegrityError), store.begin() as connection:
        connection.execute(insert(periods).values(row))
