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
from itertools import chain
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from billing.invoice_run import run_invoices
from billing.planning import plan_period
from billing.price_book_file import BookFile, read_price_book
from billing.price_books import import_book
from billing.settings import BillingSettings
from billing.stripe_gateway import StripeGateway
from inference.publisher import publish_outboxes
from inference.simulate.emitted import Emitted
from inference.simulate.plan import Plan
from inference.simulate.register import register_sources
from inference.simulate.run import plan_trace, simulate
from infra.clickhouse.client import Client, connect
from infra.endpoints import Endpoints
from infra.settings import InfraSettings
from infra.store.engine import open_store
from rentroll.demo_counting import Books, count_everything, count_served
from rentroll.demo_period import DemoTimes
from rentroll.demo_progress import Progress
from rentroll.demo_served import Served, ServedModel, refuse_shared
from rentroll.report import RunReport
from schemas.clock import Clock, SystemClock, utc
from schemas.errors import IngestError, ServerError
from schemas.periods import Period
from schemas.units import MS_PER_S, NS_PER_MS
from streams.close import Closing, close_hours
from streams.ledger_totals import dead_letters_of
from streams.log_totals import LogTotals, count_log

SEED = 2026
INGEST_IDLE_S = 1
POLL_S = 0.2
STOP_TIMEOUT_S = 30
DEAD_LETTERS_SHOWN_MAX = 20
LOG_LINES_SHOWN = 15
MODEL_STOP_S = 5


@dataclass(frozen=True, slots=True)
class DemoInputs:
    """What a run is made from; `with_model`: a real model is served beside the trace."""

    trace: Path
    price_book: Path
    assignment: Path | None
    times: DemoTimes
    with_model: bool = False
    seed: int = SEED

    @property
    def period(self) -> Period:
        """The month to bill."""
        return self.times.period


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
        plan = _plan(inputs, inputs.times.ends or inputs.period, progress)
        if inputs.times.ends and plan.requests and plan.opened_ms < _start_ms(inputs.period):
            # It reaches into the month before: then it begins with the month, and ends after now.
            plan = _plan(inputs, inputs.period, progress)
    if inputs.with_model:
        refuse_shared({owner.tenant for owner in chain(*plan.workload.roster.owners)})
    return Prepared(inputs, plan, book)


def _plan(inputs: DemoInputs, when: Period | Clock, progress: Progress) -> Plan:
    return plan_trace(
        inputs.trace,
        seed=inputs.seed,
        assignment=inputs.assignment,
        when=when,
        on_progress=progress.show,
    )


def _start_ms(period: Period) -> int:
    return int(period.start.timestamp()) * MS_PER_S


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
            emitted, served = self._emit_beside_model(store)
            log = self._ingest(ledger, emitted, served)
            closing = self._close(ledger, store)
            self._invoice(ledger, store, gateway)
            books = Books(store, ledger, gateway, self.inputs.period)
            return self._report(books, emitted=emitted, served=served, log=log, closing=closing)
        finally:
            gateway.close()
            ledger.close()
            store.dispose()

    def _emit_beside_model(self, store: Engine) -> tuple[Emitted, Served]:
        """The model boots and is used while the trace is simulated and published."""
        if not self.inputs.with_model:
            return self._emit(store), Served(why_not=self.inputs.times.why_no_model)
        model = ServedModel(
            self.settings, self.endpoints.store_url, self.clock, seed=self.inputs.seed
        )
        model.start()
        try:
            emitted = self._emit(store)
            with self._stage("serve a model"):
                while model.running():
                    self.progress.show(*model.doing)
                    time.sleep(POLL_S)
                return emitted, model.outcome()
        finally:
            model.stop(MODEL_STOP_S)

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

    def _ingest(self, ledger: Client, emitted: Emitted, served: Served) -> dict[str, LogTotals]:
        events = emitted.events + served.emitted.requests
        with self._stage("ingest"):
            run_worker(self.settings, ledger, events, self.progress)
        with self._stage("read the log"):
            sources = [source.source for source in emitted.sources]
            sources += [served.source] if served.source else []
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
        books: Books,
        *,
        emitted: Emitted,
        served: Served,
        log: dict[str, LogTotals],
        closing: Closing,
    ) -> RunReport:
        with self._stage("compare"):
            counts = count_everything(books, emitted, served, log)
            of_model = count_served(books, served, log) if served.source else None
            refused = dead_letters_of(books.ledger, DEAD_LETTERS_SHOWN_MAX)
        totals, rated = counts.totals, counts.rated
        missing = totals["emitted"].events - (totals["ledger"].events - counts.doubled)
        return RunReport(
            totals=totals,
            lost=missing + closing.lost(),
            doubled=counts.doubled,
            held_hours=tuple(
                f"{utc(one.hour_ms * NS_PER_MS):%Y-%m-%dT%H:%MZ}: {one.reason}"
                for one in closing.held()
            ),
            held_invoices=tuple(f"{tenant}: {why}" for tenant, why in sorted(rated.held.items())),
            dead_letters=tuple(refused),
            invoices=counts.invoices,
            currency=min(rated.currencies, default=""),
            seconds={name: round(spent, 3) for name, spent in self.seconds.items()},
            inputs=self._described(emitted),
            served=of_model,
            why_no_model=served.why_not,
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
