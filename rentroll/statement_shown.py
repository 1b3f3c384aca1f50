"""Shows one tenant's statement in the terminal, at the end of a demo."""

from rich.console import Console
from sqlalchemy import select

from billing.settings import BillingSettings
from billing.statement import load_statement
from billing.statement_text import render_text
from billing.statement_view import view_of
from infra.clickhouse.client import connect
from infra.endpoints import Endpoints
from infra.store.engine import open_store
from infra.store.tables import invoices
from schemas.periods import Period


def show_largest_statement(console: Console, endpoints: Endpoints, period: Period) -> None:
    """The statement of the tenant that owes most in `period`; nothing where nobody does."""
    store = open_store(endpoints.store_url)
    ledger = connect(endpoints.clickhouse_url, endpoints.clickhouse_database)
    query = (
        select(invoices.c.tenant)
        .where(invoices.c.period == period.name, invoices.c.state != "held")
        .order_by(invoices.c.total_minor.desc(), invoices.c.tenant)
        .limit(1)
    )
    try:
        with store.connect() as connection:
            tenant = connection.execute(query).scalar_one_or_none()
        if tenant is None:
            return
        source = load_statement(ledger, store, tenant=tenant, period=period)
        text = render_text(view_of(source, BillingSettings()))
    finally:
        ledger.close()
        store.dispose()
    console.print()
    console.print(text, markup=False, highlight=False, soft_wrap=True)
