"""Audits an invoice: its events are folded and rated again, and everything between is compared."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from billing.published_runs import proof_of
from billing.rederiving import (
    Culprit,
    Difference,
    InvoiceInputs,
    StoredInvoice,
    charges_alike,
    derive,
    first_difference,
    named_book,
)
from infra.clickhouse.client import Client
from infra.store.runs import RecordedRun
from schemas.billing import HourlyUsage, Invoice
from schemas.errors import ConservationError, ContractError
from schemas.periods import hour_text, parse_period
from schemas.prices import PriceBook
from schemas.proofs import ProvenHour, events_root
from schemas.tables import ROLLUP_KEY, ROLLUP_MEASURES
from schemas.units import MS_PER_S
from schemas.usage import OUTCOMES
from streams.replay import Replay
from streams.replay_reading import ReplaySource
from streams.rollup import RULES_VERSION, hour_at
from streams.run_inputs import named_runs
from streams.settings import StreamSettings
from streams.tenant_folding import OtherEvents, TenantHour, fold_tenant, published_hours

Progress = Callable[[str, int, int], None]
Hours = Mapping[int, TenantHour]
_KEYS = ROLLUP_KEY[3:]


@dataclass(frozen=True, slots=True)
class Audit:
    """What was derived again; `difference` is the first, None if the invoice is identical."""

    invoice_id: str
    tenant: str
    period: str
    difference: Difference | None
    hours: int = 0
    events: int = 0
    lines: int = 0
    total_minor: int = 0
    currency: str = ""


def audit_from_ledger(
    ledger: Client,
    store: Engine,
    stored: StoredInvoice,
    *,
    settings: StreamSettings,
    progress: Progress = lambda *_: None,
) -> Audit:
    """Derive an invoice from the ledger's events: fold, compare, rate, make, compare.

    Args:
        ledger: The ledger.
        store: The billing store.
        stored: The invoice as its bytes lie there.
        settings: Bounds of reading.
        progress: Told after each group of hours.
    """
    runs = _runs(store, stored.inputs)
    if isinstance(runs, Difference):
        return _audit(stored, runs)
    tenant = stored.inputs.tenant
    fold = fold_tenant(ledger, store, runs, tenant=tenant, settings=settings, progress=progress)
    book = named_book(store, stored.inputs.price_book_sha256)
    published = published_hours(ledger, runs, tenant=tenant)
    found = (
        _other_events(fold.other_events)
        or _other_rows(stored, book, runs, (published, fold.hours))
        or _other_leaves(stored.inputs, published, fold.hours)
    )
    return _rated(stored, book, runs, fold.hours, found)


def audit_from_log(
    replay: Replay,
    scratch: Client,
    source: ReplaySource,
    store: Engine,
    stored: StoredInvoice,
) -> Audit:
    """Derive an invoice from the records of its runs, replayed into a scratch database.

    Args:
        replay: A prepared replay beside the ledger, which is compared with it on the way.
        scratch: A client on its database.
        source: The archive or the log.
        store: The billing store.
        stored: The invoice as its bytes lie there.

    Raises:
        IngestError: If the source does not reach as far as the runs.
    """
    runs = _runs(store, stored.inputs)
    if isinstance(runs, Difference):
        return _audit(stored, runs)
    first = replay.runs(source, runs).first_difference() if runs else None
    hours = published_hours(scratch, runs, tenant=stored.inputs.tenant)
    found = None
    if first is not None and first.difference is not None:
        one = first.difference
        what: Culprit = "rows" if one.table == "usage_hourly_runs" else "event"
        where = f"{hour_text(first.hour_ms)}, {one.table} {one.subject}, {one.field}"
        if one.table == "rollup_runs":
            what = "code version" if one.field == "rules_version" else "run"
        found = Difference(what, where, one.published, one.replayed)
    book = named_book(store, stored.inputs.price_book_sha256)
    return _rated(stored, book, runs, hours, found or _other_leaves(stored.inputs, hours, hours))


def _runs(store: Engine, inputs: InvoiceInputs) -> dict[int, RecordedRun] | Difference:
    """The runs that an invoice names, if the store holds just these, made under today's rules."""
    try:
        runs = named_runs(store, parse_period(inputs.period), [one.run_id for one in inputs.runs])
    except ContractError as error:
        return Difference("run", "the store", "named by the invoice", str(error))
    headers = {run.header.run_id: run.header for run in runs.values()}
    for one in inputs.runs:
        header = headers[one.run_id]
        where = f"{hour_text(int(header.hour.timestamp()) * MS_PER_S)}, run {one.run_id[:12]}"
        if one.digest != header.digest:
            return Difference("run", f"{where}, digest", one.digest, header.digest)
        if header.rules_version != RULES_VERSION:
            return Difference(
                "code version",
                f"{where}, rules of the roll-up",
                header.rules_version,
                RULES_VERSION,
            )
    return runs


def _other_events(found: list[OtherEvents]) -> Difference | None:
    """The first hour whose run was made from other events than lie there now."""
    if not found:
        return None
    one = found[0]
    where = hour_text(one.hour_ms)
    if one.tenants:
        where += f", events of {', '.join(one.tenants)}"
    if one.unbilled:
        where += f"; not signed as they lie there: {', '.join(one.unbilled)}"
    return Difference("event", where, one.published, one.folded)


def _other_rows(
    stored: StoredInvoice,
    book: PriceBook | Difference,
    runs: Mapping[int, RecordedRun],
    sides: tuple[Hours, Hours],
) -> Difference | None:
    """The first roll-up row that events do not make; and which of the two was changed.

    The invoice is the third witness: whichever of rows and events still makes it, the other one
    was changed behind it.
    """
    published, folded = sides
    found = next(_row_differences(published, folded), None)
    if found is None or isinstance(book, Difference):
        return found
    rows_hold, events_hold = (_makes(stored, book, runs, hours) for hours in sides)
    if rows_hold and not events_hold:
        where = f"{found.where}: an event behind it was changed, `--from archive` names it"
        return Difference("event", where, found.stored, found.derived)
    return found


def _makes(
    stored: StoredInvoice, book: PriceBook, runs: Mapping[int, RecordedRun], hours: Hours
) -> bool:
    """Whether rows make the invoice; those that cannot be rated, being negative, do not."""
    try:
        return charges_alike(stored, _derived(stored, book, runs, hours))
    except ConservationError:
        return False


def _row_differences(published: Hours, folded: Hours) -> Iterator[Difference]:
    for hour in sorted(folded):
        was, made = published[hour].rows, folded[hour].rows
        for key in sorted(was.keys() | made.keys()):
            where = f"{hour_text(hour)}, row {'/'.join(key)}"
            if key not in was or key not in made:
                there = ("there", "(not there)") if key in was else ("(not there)", "there")
                yield Difference("rows", where, *there)
                continue
            for name, before, after in zip(ROLLUP_MEASURES, was[key], made[key], strict=True):
                if before != after:
                    yield Difference("rows", f"{where}, {name}", str(before), str(after))


def _other_leaves(inputs: InvoiceInputs, published: Hours, folded: Hours) -> Difference | None:
    """The first leaf of the tenant's tree that events do not make, or a root that is not theirs."""
    for hour in sorted(folded):
        was, made = published[hour], folded[hour]
        if (was.events, was.digest) != (made.events, made.digest):
            pair = (f"{one.events} events, digest {one.digest}" for one in (was, made))
            return Difference("proof", f"{hour_text(hour)}, leaf in run_tenants", *pair)
    root = _root(inputs.tenant, folded)
    if root != inputs.events_root:
        return Difference("proof", "events root", inputs.events_root or "(none)", root)
    return None


def _rated(
    stored: StoredInvoice,
    book: PriceBook | Difference,
    runs: Mapping[int, RecordedRun],
    hours: Hours,
    found: Difference | None,
) -> Audit:
    """Rate what the events make, unless something differs already, and compare the invoice."""
    if isinstance(book, Difference):
        return _audit(stored, found or book)
    invoice = _derived(stored, book, runs, hours)
    return Audit(
        stored.id,
        stored.inputs.tenant,
        stored.inputs.period,
        found or first_difference(stored, invoice),
        hours=len(hours),
        events=sum(one.events for one in hours.values()),
        lines=len(invoice.lines),
        total_minor=invoice.total_minor,
        currency=invoice.currency,
    )


def _derived(
    stored: StoredInvoice, book: PriceBook, runs: Mapping[int, RecordedRun], hours: Hours
) -> Invoice:
    tenant = stored.inputs.tenant
    headers = {run.header.run_id: run.header for run in runs.values()}
    proof = proof_of(headers, headers, _root(tenant, hours))
    return derive(stored, book, _usage(tenant, runs, hours), proof)


def _usage(tenant: str, runs: Mapping[int, RecordedRun], hours: Hours) -> Iterator[HourlyUsage]:
    for hour, one in hours.items():
        for key, measures in one.rows.items():
            dimensions: dict[str, Any] = dict(zip(_KEYS, key, strict=True))
            quantities = dict(zip(ROLLUP_MEASURES, measures, strict=True))
            if dimensions["outcome"] not in OUTCOMES:
                raise ConservationError(
                    f"{tenant} {hour_text(hour)} has outcome {dimensions['outcome']!r}, which no"
                    " price book can know"
                )
            yield HourlyUsage(
                hour=hour_at(hour),
                run_id=runs[hour].header.run_id,
                tenant=tenant,
                **dimensions,
                requests=quantities["requests"],
                quantities=quantities,
            )


def _root(tenant: str, hours: Hours) -> str:
    return events_root(
        tenant,
        [
            ProvenHour(hour=hour_text(hour), events=one.events, digest=one.digest)
            for hour, one in hours.items()
            if one.events
        ],
    )


def _audit(stored: StoredInvoice, difference: Difference) -> Audit:
    return Audit(stored.id, stored.inputs.tenant, stored.inputs.period, difference)
