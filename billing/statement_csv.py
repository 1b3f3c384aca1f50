"""A statement as CSV: one row per line, unbilled line, day and run; plain digits, for machines."""

import csv
import io
from collections.abc import Iterator

from billing.statement_view import StatementView
from schemas.billing import RatedLine

COLUMNS = (
    "record",
    "tenant",
    "period",
    "number",
    "line",
    "model",
    "adapter",
    "service_tier",
    "meter",
    "requests",
    "quantity",
    "unit_price",
    "per",
    "currency",
    "amount",
    "day",
    "input_tokens",
    "output_tokens",
    "gpu_ns",
    "hour",
    "run_id",
    "digest",
    "text",
)
"""`record` says what a row is: statement, line, carried correction, total, correction, unbilled,
day, loss, run."""
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def render_csv(view: StatementView) -> str:
    """The statement as RFC 4180 CSV with a header row."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, restval="")
    writer.writeheader()
    shared = {"tenant": view.tenant, "period": view.period, "number": view.number}
    for row in _rows(view):
        writer.writerow({name: _inert(name, text) for name, text in (shared | row).items()})
    return out.getvalue()


def _rows(view: StatementView) -> Iterator[dict[str, str]]:
    yield from _heads(view)
    for line in view.lines:
        yield {
            "record": "line",
            "line": str(line.no),
            **_usage(line.rated),
            "unit_price": line.unit_price,
            "per": str(line.rated.per),
            "currency": view.currency,
            "amount": line.amount_plain,
        }
    for carried in view.carried:
        yield {
            "record": "carried correction",
            "line": str(carried.no),
            "currency": view.currency,
            "amount": carried.amount_plain,
            "text": carried.text,
        }
    yield {"record": "total", "currency": view.currency, "amount": view.total_plain}
    for correction in view.corrections:
        yield {
            "record": "correction",
            "line": correction.revision,
            "currency": view.currency,
            "amount": correction.amount_plain,
            "text": f"{correction.reference}: {correction.text} ({correction.settled})",
        }
    for one in view.unbilled:
        yield {"record": "unbilled", **_usage(one.rated)}
    for day in view.days:
        yield {
            "record": "day",
            "day": day.used.day,
            "requests": str(day.used.requests),
            "input_tokens": str(day.used.input_tokens),
            "output_tokens": str(day.used.output_tokens),
            "gpu_ns": str(day.used.gpu_ns),
        }
    for loss in view.losses:
        yield {"record": "loss", "text": loss}
    for run in view.runs:
        yield {"record": "run", "hour": run.hour, "run_id": run.run_id, "digest": run.digest}


def _heads(view: StatementView) -> Iterator[dict[str, str]]:
    heads = {
        "supplier": view.supplier.name,
        "customer": view.customer.name,
        "state": view.state,
        "on hold": view.hold_reason,
        "invoice": view.invoice_id,
        "price book": f"{view.price_book} {view.price_book_sha256}",
        "rated by": view.rating_version,
        "events root": view.events_root,
    }
    for title, said in heads.items():
        if said:
            yield {"record": "statement", "text": f"{title}: {said}"}


def _usage(rated: RatedLine) -> dict[str, str]:
    return {
        "model": rated.model,
        "adapter": rated.adapter,
        "service_tier": rated.service_tier,
        "meter": rated.meter,
        "requests": str(rated.requests),
        "quantity": str(rated.quantity),
    }


def _inert(name: str, text: str) -> str:
    """Text that a spreadsheet would take for a formula gets an apostrophe in front.

    Amounts are our own digits, and below zero where a correction gives back: they stay numbers.
    """
    return f"'{text}" if name != "amount" and text.startswith(_FORMULA_STARTS) else text
