"""Asks every stage of a run for its own count, all together and of the served model alone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Engine

from billing.rated_totals import RatedTotals, rated_totals
from billing.stripe_gateway import StripeGateway
from billing.stripe_totals import totals_on_stripe
from inference.demo_model import MODEL_LICENSE, MODEL_NAME
from inference.simulate.emitted import Emitted
from infra.clickhouse.client import Client
from rentroll.demo_served import TENANTS, Served
from rentroll.report import ServedReport, StageTotals
from rentroll.served_counts import (
    Billed,
    EngineCounters,
    client_side,
    disagreements,
    engine_side,
)
from schemas.periods import Period
from schemas.usage import TOKEN_METERS
from streams.ledger_totals import (
    attributed_by_engines,
    ledger_totals,
    requests_in_ledger,
    rolled_up_totals,
)
from streams.log_totals import LogTotals


@dataclass(frozen=True, slots=True)
class Books:
    """Where counts are read."""

    store: Engine
    ledger: Client
    gateway: StripeGateway
    period: Period


class Counts(NamedTuple):
    """Every stage's totals; what the ledger doubled, what is rated and held, invoices on Stripe."""

    totals: dict[str, StageTotals]
    doubled: int
    rated: RatedTotals
    invoices: int


def count_everything(
    books: Books, emitted: Emitted, served: Served, log: Mapping[str, LogTotals]
) -> Counts:
    """What was emitted by the simulation and the served model, and what became of it."""
    tokens = {meter: emitted.tokens[meter] + served.emitted.tokens[meter] for meter in TOKEN_METERS}
    came = StageTotals(
        emitted.events + served.emitted.requests, tokens, emitted.gpu_ns + served.emitted.gpu_ns
    )
    return _count(books, came, log, None)


def count_served(books: Books, served: Served, log: Mapping[str, LogTotals]) -> ServedReport:
    """The served model's traffic by itself, beside what its clients and its engine counted."""
    emitted = served.emitted
    came = StageTotals(emitted.requests, emitted.tokens, emitted.gpu_ns)
    counts = _count(books, came, {served.source: log[served.source]}, frozenset(TENANTS))
    billed = {
        request: Billed(one.tenant, one.outcome, one.tokens, one.delivered_tokens)
        for request, one in requests_in_ledger(books.ledger, served.source).items()
    }
    counters = EngineCounters(
        answered=served.counters.answered,
        prompt_tokens=served.counters.prompt_tokens,
        cached_tokens=served.counters.cached_tokens,
        generated_tokens=served.counters.generated_tokens,
        attributed_ns=attributed_by_engines(books.ledger, served.source),
    )
    return ServedReport(
        model=MODEL_NAME,
        license=MODEL_LICENSE,
        totals=counts.totals,
        clients=client_side(served.asked, billed),
        engine=engine_side(counters, billed),
        endings=dict(Counter(one.ending for one in served.asked)),
        disagreements=tuple(disagreements(served.asked, billed)),
        seconds={name: round(spent, 3) for name, spent in served.seconds.items()},
    )


def _count(
    books: Books,
    came: StageTotals,
    log: Mapping[str, LogTotals],
    tenants: frozenset[str] | None,
) -> Counts:
    logged = LogTotals()
    for one in log.values():
        logged.add(one)
    held = ledger_totals(books.ledger, list(log))
    rolled_up = rolled_up_totals(books.ledger, books.period, tenants)
    rated = rated_totals(books.store, books.period, tenants)
    stripe = totals_on_stripe(books.gateway, books.period, tenants)
    totals = {
        "emitted": came,
        "logged": StageTotals(logged.events, dict(logged.tokens), logged.gpu_ns),
        "ledger": StageTotals(held.events, held.tokens, held.gpu_ns),
        "rolled_up": StageTotals(rolled_up.events, rolled_up.tokens, rolled_up.gpu_ns),
        "rated": StageTotals(rated.requests, dict(rated.tokens), rated.gpu_ns, rated.amount_minor),
        "stripe": StageTotals(stripe.requests, stripe.tokens, stripe.gpu_ns, stripe.amount_minor),
    }
    return Counts(totals, held.doubled, rated, stripe.invoices)
