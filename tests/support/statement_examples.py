"""A statement with everything on it, made by the real rating from made-up usage."""

from collections import defaultdict

from billing.invoicing import Proof, make_invoice
from billing.rating import rate
from billing.statement import StatementSource
from schemas.billing import DailyUsage, HourlyUsage, RunReference, Statement
from schemas.ids import derived_hex
from schemas.prices import Selector
from tests.support.billing_examples import OCTOBER, book_of, graduated_price, unit_price, usage

INPUT, CACHED, OUTPUT = "input_uncached_tokens", "input_cache_read_tokens", "output_text_tokens"
SMALL, LARGE = Selector(model="llama-3.1-8b"), Selector(model="llama-3.3-70b")
BOOK = book_of(
    unit_price("small-in", "0.06", select=SMALL),
    unit_price("small-cached", "0.03", select=SMALL, meter=CACHED),
    unit_price("small-out", "0.15", select=SMALL, meter=OUTPUT),
    unit_price("large-in", "0.45", select=LARGE),
    unit_price("large-cached", "0.1125", select=LARGE, meter=CACHED),
    graduated_price("large-out", [(50_000_000, "0.9"), (None, "0.8")], select=LARGE, meter=OUTPUT),
    name="acme-2026",
)


def month_of_usage() -> list[HourlyUsage]:
    """Some usage in every fourth hour, more by day and on weekdays; a few failures."""
    rows: list[HourlyUsage] = []
    for hour in range(0, 744, 4):
        load = 3 + 5 * (8 <= hour % 24 <= 18) + 4 * (hour // 24 % 7 < 5)
        for model, times in (("llama-3.1-8b", 7), ("llama-3.3-70b", 3)):
            used = {
                INPUT: 100_003 * load * times,
                CACHED: 40_009 * load * times,
                OUTPUT: 20_011 * load * times,
                "gpu_ns": 1_234_567_890 * load * times,
            }
            row = usage(hour, model=model, requests=load * times, quantities=used)
            rows.append(row)
    rows.append(usage(99, outcome="error", requests=12, quantities={INPUT: 4_321, "gpu_ns": 777}))
    rows.append(usage(100, outcome="refused", requests=3))
    return rows


def days_of(rows: list[HourlyUsage]) -> tuple[DailyUsage, ...]:
    """Usage by day, as the ledger would sum it."""
    by_day: dict[str, list[HourlyUsage]] = defaultdict(list)
    for row in rows:
        by_day[f"{row.hour:%Y-%m-%d}"].append(row)
    return tuple(
        DailyUsage(
            day=day,
            requests=sum(row.requests for row in used),
            input_tokens=sum(row.quantities[INPUT] + row.quantities[CACHED] for row in used),
            output_tokens=sum(row.quantities[OUTPUT] for row in used),
            gpu_ns=sum(row.quantities["gpu_ns"] for row in used),
        )
        for day, used in sorted(by_day.items())
    )


def statement_source(
    *, customer_name: str = "Acme Robotics GmbH", hold_reason: str = ""
) -> StatementSource:
    """A statement of October 2026 for acme."""
    rows = month_of_usage()
    runs = tuple(
        RunReference(
            hour=f"{row.hour:%Y-%m-%dT%H:%M:%S}.000Z",
            run_id=derived_hex("run", row.run_id),
            digest=derived_hex("digest", row.run_id),
        )
        for row in {row.run_id: row for row in rows}.values()
    )
    invoice = make_invoice(
        rate(rows, BOOK, OCTOBER),
        BOOK,
        OCTOBER,
        tenant="acme",
        proof=Proof(runs, {"usage.v1/0": 123_456, "usage.v1/1": 123_001}),
    )
    statement = Statement(
        tenant="acme",
        period="2026-10",
        state="held" if hold_reason else "issued",
        number="INV-2026-0042",
        invoice=invoice,
        days=days_of(rows),
    )
    return StatementSource(statement, customer_name, "ap@acme.example", hold_reason, BOOK)
