"""Invoices as planning leaves them in the store, for tests of issuing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, insert

from infra.store.engine import open_store
from infra.store.tables import invoices, metadata, tenants
from schemas.billing import Invoice, InvoiceLine, RatedLine
from schemas.ids import derived_hex
from schemas.money import allocate_minor
from schemas.periods import parse_period

PERIOD = parse_period("2026-10")
QUANTITIES = {
    "input_uncached_tokens": (123_456_789, 250_000_000_000),
    "input_cache_read_tokens": (9_000_001, 62_500_000_000),
    "output_text_tokens": (9_876_543, 1_100_000_000_000),
    "gpu_ns": (4_210_337_000_123, 0),
}
"""Quantity and unit price (scaled by 10^12, per million) of each line of a product."""
TOTAL_MINOR = 4229
"""Of one product: 30.86419725 + 0.5625000625 + 10.8641973 + 0 USD, rounded half up once."""


def rated(
    tenant: str, meter: str, *, model: str = "llama-3.1-8b", billed: bool = True
) -> RatedLine:
    """One rated line with the quantities above."""
    quantity, price = QUANTITIES[meter]
    return RatedLine(
        tenant=tenant,
        period=PERIOD.name,
        price_id=f"{model}.{meter}",
        meter=meter,
        model=model,
        adapter="",
        service_tier="standard",
        outcome_class="billed" if billed else "unbilled",
        requests=1_000,
        quantity=quantity,
        per=1_000_000,
        numerator_e12=quantity * price if billed else 0,
    )


def make_invoice(
    tenant: str = "acme",
    *,
    models: int = 1,
    unbilled: bool = True,
    revision: int = 1,
    currency: str = "USD",
) -> Invoice:
    """An invoice over `models` products with four lines each, and some usage not billed."""
    lines = [
        rated(tenant, meter, model=f"model-{number}")
        for number in range(models)
        for meter in QUANTITIES
    ]
    amounts = allocate_minor(
        [one.amount() for one in lines], [one.key() for one in lines], currency
    )
    return Invoice(
        id=derived_hex("invoice", tenant, str(models), str(revision), currency),
        tenant=tenant,
        period=PERIOD.name,
        revision=revision,
        currency=currency,
        lines=tuple(
            InvoiceLine(
                line_no=number,
                rated=one,
                description=f"{one.model} {one.meter}",
                amount_minor=minor,
            )
            for number, (one, minor) in enumerate(zip(lines, amounts, strict=True), 1)
        ),
        unbilled=(rated(tenant, "output_text_tokens", billed=False),) if unbilled else (),
        total_minor=sum(amounts),
        requests=1_000,
        gpu_ns=QUANTITIES["gpu_ns"][0],
        price_book_sha256="b" * 64,
        rating_version="test",
        runs=(),
        offsets={},
    )


def plan(store: Engine, invoice: Invoice, *, email: str = "") -> Invoice:
    """Write an invoice as planning does, with its tenant."""
    with store.begin() as connection:
        connection.execute(
            insert(tenants).values(
                tenant=invoice.tenant,
                name=f"{invoice.tenant} Ltd",
                email=email or f"{invoice.tenant}@example.invalid",
                currency=invoice.currency,
                net_days=30,
                created_at_ms=0,
            )
        )
        connection.execute(insert(invoices).values(**invoice_row(invoice)))
    return invoice


def invoice_row(invoice: Invoice) -> dict[str, object]:
    """The row of a planned invoice."""
    return {
        "id": invoice.id,
        "tenant": invoice.tenant,
        "period": invoice.period,
        "revision": invoice.revision,
        "currency": invoice.currency,
        "state": "planned",
        "total_minor": invoice.total_minor,
        "body": invoice.model_dump_json(),
        "planned_at_ms": 0,
        "hold_reason": "",
        "adopted": 0,
        "lease_until_ms": 0,
    }


@contextmanager
def sqlite_store(path: Path) -> Iterator[Engine]:
    """An empty billing store in a new SQLite file."""
    store = open_store(f"sqlite:///{path}")
    metadata.create_all(store)
    try:
        yield store
    finally:
        store.dispose()
