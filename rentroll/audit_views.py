"""What the audit of an invoice shows."""

from typing import TYPE_CHECKING

from rich.text import Text

from billing.wording import money_text

if TYPE_CHECKING:
    from rentroll.invoice_audit import Audit


def audit_text(audited: "Audit", witness: str) -> Text:
    """*identical* with what was derived, or the first difference with both sides."""
    name = f"invoice {audited.invoice_id[:12]}, {audited.tenant} {audited.period}"
    text = Text()
    if audited.difference is None:
        text.append("identical", style="bold green")
        text.append(
            f": {name}, byte for byte from the events in the {witness}:"
            f" {audited.events:,} events in {audited.hours:,} hours make {audited.lines:,} lines,"
            f" {audited.currency} {money_text(audited.total_minor, audited.currency)};"
            f" id {audited.invoice_id}"
        )
        return text
    one = audited.difference
    text.append("different", style="bold red")
    text.append(f": {name}: first the {one.culprit}: {one.where}\n")
    text.append(f"  stored:  {one.stored}\n  derived: {one.derived}")
    return text
