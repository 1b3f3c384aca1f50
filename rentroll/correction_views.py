"""Corrections as tables for the terminal."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from billing.correcting import ID_DIGITS
from billing.correction_records import CorrectionRecord, settled_text
from schemas.money import format_minor


def corrections_table(records: Sequence[CorrectionRecord]) -> Table:
    """One row per correction, with where its amount went."""
    table = Table(title="Corrections", title_justify="left")
    for heading in ("Correction", "Period", "Tenant", "Invoice"):
        table.add_column(heading)
    table.add_column("Amount", justify="right")
    table.add_column("Settled", overflow="fold")
    for record in records:
        one = record.correction
        table.add_row(
            one.id[:ID_DIGITS],
            f"{one.period} rev. {one.revision}",
            one.tenant,
            one.invoice_id[:ID_DIGITS],
            f"{format_minor(one.total_minor, one.currency)} {one.currency}",
            settled_text(record),
        )
    return table


def correction_tables(record: CorrectionRecord) -> Iterator[Table]:
    """What a correction was made from, and its lines."""
    one = record.correction
    facts = Table(title=f"Correction {one.id}", title_justify="left", show_header=False)
    for name, value in (
        ("Tenant", one.tenant),
        ("Period", f"{one.period}, revision {one.revision}"),
        ("Invoice", one.invoice_id),
        ("Charged before", f"{format_minor(one.charged_minor, one.currency)} {one.currency}"),
        ("Rated now", f"{format_minor(one.rated_minor, one.currency)} {one.currency}"),
        ("Correction", f"{format_minor(one.total_minor, one.currency)} {one.currency}"),
        ("Settled", settled_text(record)),
        ("Requests", f"{one.requests:,}"),
        ("Price book", one.price_book_sha256),
        ("Events root", one.events_root),
    ):
        facts.add_row(name, value)
    yield facts
    lines = Table(title="Lines that differ", title_justify="left")
    lines.add_column("#", justify="right")
    lines.add_column("What", overflow="fold")
    for heading in ("Charged", "Rated", "Difference"):
        lines.add_column(heading, justify="right")
    for line in one.lines:
        lines.add_row(
            str(line.line_no),
            line.description,
            format_minor(line.charged_minor, one.currency),
            format_minor(line.rated_minor(), one.currency),
            format_minor(line.amount_minor, one.currency),
        )
    yield lines
