"""The main job, once: a trace of real LLM traffic becomes invoices, and every count is compared.

Each step is the stage's own entry point, the same that its command calls; ingest runs as a
process of its own, as it does in production.
"""

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from billing.invoice_run import run_invoices, totals_on_stripe
from billing.planning import plan_period
from billing.price_book_file import BookFile, read_price_book
from billing.price_books import import_book
from billing.rated_totals import RatedTotals, rated_totals
from billing.settings import BillingSettings
from billing.stripe_gateway import StripeGateway
from inference.publisher import publish_outboxes
from inference.simulate.emitted import Emitted
from inference.simulate.plan import Plan
from inference.simulate.run import plan_trace, register_sources, simulate
from infra.clickhouse.client import Client, connect
from infra.endpoints import Endpoints
from infra.settings import InfraSettings
from infra.store.engine import open_store
from rentroll.demo_progress import Progress
from rentroll.report import RunReport, StageTotals
from schemas.clock import Clock, SystemClock, utc
from schemas.errors import IngestError, ServerError
from schemas.periods import HOUR, Period, parse_period, period_of
from schemas.units import NS_PER_MS
from streams.close import Closing, close_hours
from streams.ledger_totals import dead_letters_of, ledger_totals, rolled_up_totals
from streams.log_totals import LogTotals, count_log

SEED = 2026
INGEST_IDLE_S = 1
POLL_S = 0.2
STOP_TIMEOUT_S = 30
DEAD_LETTERS_SHOWN_MAX = 20
LOG_LINES_SHOWN = 15


@dataclass(frozen=True, slots=True)
class DemoInputs:
    """What a run is made from."""

    trace: Path
    price_book: Path
    assignment: Path | None
    period: Period
    seed: int = SEED


@dataclass(frozen=True, slots=True)
class Prepared:
    """Inputs that were read to their end and are sound."""

    inputs: DemoInputs
    plan: Plan
    book: BookFile


def prepare(inputs: DemoInputs, progress: Progress) -> Prepared:
    """Read and check every input, before any server starts or anything is emitted.

    Raises:
        InputFileError: If a file is wrong; the message starts with `file:line`.
    """
    with progress.stage("read inputs"):
        book = read_price_book(inputs.price_book)
        plan = plan_trace(
            inputs.trace,
            seed=inputs.seed,
            assignment=inputs.assignment,
            when=inputs.period,
            on_progress=progress.show,
        )
    return Prepared(inputs, plan, book)


@dataclass(slots=True)
class Demo:
    """One run under way: the servers, and how long each stage took."""

    prepared: Prepared
    settings: InfraSettings
    endpoints: Endpoints
    progress: Progress
    clock: Clock = field(default_factory=SystemClock)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def inputs(self) -> DemoInputs:
        """What the run is made from."""
        return self.prepared.inputs

    def run(self) -> RunReport:
        """Every stage in order; the report says whether all counts agree.

        Raises:
            RentrollError: If a stage refuses to go on; what was done stays and can be looked at.
        """
        store = open_store(self.endpoints.store_url)
        ledger = connect(self.endpoints.clickhouse_url, self.endpoints.clickhouse_database)
        gateway = StripeGateway(self.endpoints.stripe_api_key, self.endpoints.stripe_api_base)
        try:
            emitted = self._emit(store)
            log = self._ingest(ledger, emitted)
            closing = self._close(ledger, store)
            self._invoice(ledger, store, gateway)
            return self._report(store, ledger, gateway, emitted=emitted, log=log, closing=closing)
        finally:
            gateway.close()
            ledger.close()
            store.dispose()

    def _emit(self, store: Engine) -> Emitted:
        with self._stage("simulate"):
            emitted = simulate(
                self.prepared.plan, self.settings.home / "outboxes", on_progress=self.progress.show
            )
            register_sources(store, emitted, now_ms=self.clock.now_ns() // NS_PER_MS)
        with self._stage("publish"):
            publish_outboxes(
                emitted.folder, self.endpoints.kafka_bootstrap, on_progress=self.progress.show
            )
        return emitted

    def _ingest(self, ledger: Client, emitted: Emitted) -> LogTotals:
        with self._stage("ingest"):
            run_worker(self.settings, ledger, emitted.events, self.progress)
        with self._stage("read the log"):
            sources = [source.source for source in emitted.sources]
            return asyncio.run(count_log(self.endpoints.kafka_bootstrap, sources))

    def _close(self, ledger: Client, store: Engine) -> Closing:
        def show(step: str, decided: int, hours: int) -> None:
            self.progress.show(f"closing hours: {step}", decided, hours)

        with self._stage("close"):
            return close_hours(ledger, store, self.inputs.period, clock=self.clock, progress=show)

    def _invoice(self, ledger: Client, store: Engine, gateway: StripeGateway) -> None:
        with self._stage("rate"):
            file = self.prepared.book
            now_ms = self.clock.now_ns() // NS_PER_MS
            import_book(store, file, imported_by="rentroll demo", now_ms=now_ms)
            settings = BillingSettings()
            plan_period(
                ledger, store, self.inputs.period, file.book, clock=self.clock, settings=settings
            )
        with self._stage("invoice"):
            run_invoices(
                store,
                gateway,
                period=self.inputs.period,
                clock=self.clock,
                on_progress=lambda done, total: self.progress.show("issuing", done, total),
            )

    def _report(
        self,
        store: Engine,
        ledger: Client,
        gateway: StripeGateway,
        *,
        emitted: Emitted,
        log: LogTotals,
        closing: Closing,
    ) -> RunReport:
        period = self.inputs.period
        with self._stage("compare"):
            held = ledger_totals(ledger, [source.source for source in emitted.sources])
            rolled_up = rolled_up_totals(ledger, period)
            rated = rated_totals(store, period)
            stripe = totals_on_stripe(gateway, period)
            refused = dead_letters_of(ledger, DEAD_LETTERS_SHOWN_MAX)
        return RunReport(
            totals={
                "emitted": StageTotals(emitted.events, emitted.tokens, emitted.gpu_ns),
                "logged": StageTotals(log.events, dict(log.tokens), log.gpu_ns),
                "ledger": StageTotals(held.events, held.tokens, held.gpu_ns),
                "rolled_up": StageTotals(rolled_up.events, rolled_up.tokens, rolled_up.gpu_ns),
                "rated": _rated(rated),
                "stripe": StageTotals(
                    stripe.requests, stripe.tokens, stripe.gpu_ns, stripe.amount_minor
                ),
            },
            lost=emitted.events - (held.events - held.doubled) + closing.lost(),
            doubled=held.doubled,
            held_hours=tuple(
                f"{utc(one.hour_ms * NS_PER_MS):%Y-%m-%dT%H:%MZ}: {one.reason}"
                for one in closing.held()
            ),
            held_invoices=tuple(f"{tenant}: {why}" for tenant, why in sorted(rated.held.items())),
            dead_letters=tuple(refused),
            invoices=stripe.invoices,
            currency=min(rated.currencies, default=""),
            seconds={name: round(spent, 3) for name, spent in self.seconds.items()},
            inputs=self._described(emitted),
        )

    def _described(self, emitted: Emitted) -> dict[str, Any]:
        return {
            "trace": str(self.inputs.trace),
            "period": self.inputs.period.name,
            "price_book": str(self.inputs.price_book),
            **emitted.report,
        }

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        began_s = time.monotonic()
        with self.progress.stage(name):
            yield
        self.seconds[name] = time.monotonic() - began_s


def _rated(rated: RatedTotals) -> StageTotals:
    return StageTotals(rated.requests, dict(rated.tokens), rated.gpu_ns, rated.amount_minor)


def run_worker(settings: InfraSettings, ledger: Client, events: int, progress: Progress) -> None:
    """Run `rentroll worker` until the log is in the ledger; its log lines go to the stack's folder.

    Raises:
        IngestError: If it fails; the message holds its last log lines.
    """
    log = settings.home / "worker.log"
    command = [sys.executable, "-m", "rentroll", "worker", "--until-idle", str(INGEST_IDLE_S)]
    with log.open("ab") as sink:
        worker = subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=sink, stderr=sink, env=settings.as_environment()
        )
    try:
        while worker.poll() is None:
            counted = ledger.query("SELECT count() FROM usage_events").result_rows[0][0]
            progress.show("into the ledger", min(int(counted), events), events)
            time.sleep(POLL_S)
    finally:
        _end(worker)
    if worker.returncode != 0:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])
        raise IngestError(f"the worker ended with status {worker.returncode}; {log} ends:\n{last}")


def _end(worker: "subprocess.Popen[bytes]") -> None:
    if worker.poll() is not None:
        return
    worker.send_signal(signal.SIGTERM)
    try:
        worker.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def clear_folder(home: Path) -> None:
    """Remove what an earlier demo left in its own folder, so that every run starts from nothing.

    Raises:
        ServerError: If the folder holds anything that no demo wrote.
    """
    if not home.exists():
        return
    if not (home / DEMO_MARK).exists() and any(home.iterdir()):
        raise ServerError(f"{home} was not made by a demo; move it away, or set RENTROLL_HOME")
    shutil.rmtree(home)


DEMO_MARK = "made-by-rentroll-demo"


def make_folder(home: Path) -> None:
    """An empty folder that later demos may clear."""
    home.mkdir(parents=True)
    (home / DEMO_MARK).touch()


def billing_month(clock: Clock, name: str | None) -> Period:
    """The month to bill: as named, else the last one that is over."""
    if name is not None:
        return parse_period(name)
    this_month = period_of(utc(clock.now_ns()))
    return period_of(this_month.start - HOUR)
