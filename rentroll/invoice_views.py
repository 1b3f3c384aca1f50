"""Invoices as tables for the terminal."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from billing.invoice_records import InvoiceRecord
from billing.journal import Call
from billing.wording import quantity_text
from schemas.billing import Invoice
from schemas.ids import format_ms
from schemas.money import format_minor

ID_DIGITS = 12


def invoices_table(records: Sequence[InvoiceRecord]) -> Table:
    """One row per invoice, with the reason where it is held."""
    table = Table(title="Invoices", title_justify="left")
    for heading in ("Invoice", "Period", "Tenant", "State"):
        table.add_column(heading)
    table.add_column("Total", justify="right")
    for heading in ("Stripe", "Remark"):
        table.add_column(heading, overflow="fold")
    for one in records:
        table.add_row(
            one.id[:ID_DIGITS],
            one.period if one.revision == 1 else f"{one.period} rev. {one.revision}",
            one.tenant,
            f"[red]{one.state}[/]" if one.state == "held" else one.state,
            f"{format_minor(one.total_minor, one.currency)} {one.currency}",
            " ".join(part for part in (one.number, one.stripe_status) if part),
            one.hold_reason,
        )
    return table


def invoice_tables(record: InvoiceRecord, invoice: Invoice, calls: list[Call]) -> Iterator[Table]:
    """Where an invoice stands, its lines, and everything that Stripe was told about it."""
    facts = Table(title=f"Invoice {record.id}", title_justify="left", show_header=False)
    for name, value in (
        ("Tenant", record.tenant),
        ("Period", f"{record.period}, revision {record.revision}"),
        ("State", record.state),
        ("Total", f"{format_minor(record.total_minor, record.currency)} {record.currency}"),
        ("Requests", f"{invoice.requests:,}"),
        ("GPU-ns", f"{invoice.gpu_ns:,}"),
        ("Price book", invoice.price_book_sha256),
        ("At Stripe", f"{record.stripe_invoice} {record.number} {record.stripe_status}".strip()),
        ("Page", record.hosted_url),
        ("Remark", record.hold_reason),
    ):
        facts.add_row(name, value)
    yield facts
    lines = Table(title="Lines", title_justify="left")
    lines.add_column("#", justify="right")
    lines.add_column("What", overflow="fold")
    lines.add_column("Quantity", justify="right")
    lines.add_column(record.currency, justify="right")
    for line in invoice.lines:
        lines.add_row(
            str(line.line_no),
            line.description,
            quantity_text(line.rated.quantity, line.rated.meter),
            format_minor(line.amount_minor, record.currency),
        )
    for number, one in enumerate(invoice.corrections, start=len(invoice.lines) + 1):
        amount = format_minor(one.amount_minor, record.currency)
        lines.add_row(str(number), one.description, "", amount)
    yield lines
    journal = Table(title="Calls to Stripe", title_justify="left")
    for heading in ("Opened", "Step", "Key", "Sent", "Outcome", "Made", "Remark"):
        journal.add_column(heading, overflow="fold")
    for call in calls:
        journal.add_row(
            format_ms(call.opened_at_ms),
            call.step if call.generation == 1 else f"{call.step} (key {call.generation})",
            call.key,
            f"{call.attempts} times" if call.attempts > 1 else "once",
            call.outcome or "not known yet",
            call.result_id,
            call.error,
        )
    yield journal
