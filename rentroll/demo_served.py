"""The served model of a demo: installed, started, driven by its tenants and stopped, on a thread.

The replay goes on meanwhile; whoever waits asks what it is `doing`.
"""

import secrets
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import requests
from sqlalchemy import Engine

from inference.demo_model import MODEL_NAME, ensure_model
from inference.emitted_totals import EmittedTotals, emitted_totals
from inference.host_source import outboxes_of
from inference.serve import Serving, serving_model
from inference.serve_command import CPU_DEFAULTS
from inference.settings import InferenceSettings
from inference.vllm_environment import ensure_environment
from infra.api_keys import KeyTerms, Scope
from infra.settings import InfraSettings
from infra.store.api_keys import CREATION_ENTROPY_BYTES, create_key
from infra.store.engine import open_store
from rentroll.demo_traffic import Tenant, drive
from rentroll.served_counts import Asked
from rentroll.vllm_counters import NO_COUNTERS, VllmCounters, read_counters
from schemas.clock import Clock
from schemas.errors import InputFileError, ServerError
from schemas.units import NS_PER_MS

TENANTS = {"fern-legal": "contracts", "lumen-studio": "stories", "orbit-games": "npc-talk"}
"""Who uses the model, and their projects. No tenants of the replayed trace (`refuse_shared`)."""
OPERATOR = "rentroll-demo"
OPTIONS = (
    *("--served-model-name", MODEL_NAME, "--max-model-len", "2048", "--max-num-seqs", "16"),
    # Kernels for float32 are in the wheel for every CPU; compiling others would take longer.
    *("--dtype", "float32", "--enforce-eager"),
    # So that clients are told how much of their prompt was cached, which is cheaper.
    "--enable-prompt-tokens-details",
)
QUIET = {
    **CPU_DEFAULTS,
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCHDYNAMO_DISABLE": "1",
    # Threads that wait for work would else keep a core from the rest of the pipeline: four times
    # slower where there are only two.
    "KMP_BLOCKTIME": "0",
    "OMP_WAIT_POLICY": "passive",
}
IDLE_S = 30
POLL_S = 0.2
METRICS_TIMEOUT_S = 10


class Doing(NamedTuple):
    """How far it is; a total of 0 is unknown."""

    what: str
    done: int = 0
    total: int = 0


@dataclass(slots=True)
class Served:
    """What became of it. Without `source` no model was served, and `why_not` says why and how."""

    why_not: str = ""
    source: str = ""
    asked: list[Asked] = field(default_factory=list)
    emitted: EmittedTotals = field(default_factory=EmittedTotals)
    counters: VllmCounters = NO_COUNTERS
    seconds: dict[str, float] = field(default_factory=dict)


class ServedModel:
    """One model, from its installation to its end.

    Args:
        infra: The stack that takes its events.
        store_url: Of the billing store, for the tenants' keys.
        clock: The host's.
        seed: Decides what the tenants ask.
    """

    def __init__(self, infra: InfraSettings, store_url: str, clock: Clock, seed: int) -> None:
        self._infra = infra
        self._store_url = store_url
        self._clock = clock
        self._seed = seed
        host = infra.home / "served"
        self._settings = InferenceSettings.model_validate(
            {"host_folder": host, "door_keys_file": host / "door-keys.json", "interval_s": 1}
        )
        self._served = Served()
        self._error: BaseException | None = None
        self._stop = threading.Event()
        # A daemon: whoever interrupts a demo does not wait for an engine to boot. What it started
        # sees that its parent has gone.
        self._thread = threading.Thread(target=self._run, name="served model", daemon=True)
        self.doing = Doing("starting")

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._thread.start()

    def running(self) -> bool:
        """Whether it is not over yet."""
        return self._thread.is_alive()

    def stop(self, timeout_s: float) -> None:
        """Make no further requests, and wait for the end, but not longer than that."""
        self._stop.set()
        self._thread.join(timeout_s)

    def outcome(self) -> Served:
        """What became of it, once it is over.

        Raises:
            RentrollError: If it failed after it had begun to serve: then events may be missing.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._served

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self._error = error

    def _serve(self) -> None:
        ready = False
        try:
            model = self._prepare()
            keys, operator = self._keys()
            began_s = time.monotonic()
            with serving_model(
                model,
                OPTIONS,
                settings=self._settings,
                infra=self._infra,
                environment=QUIET,
                say=self._say,
            ) as serving:
                ready = True
                self._served.seconds["boot"] = time.monotonic() - began_s
                self._served.source = serving.source
                self._use(serving, keys, operator)
                self._end(serving)
        except ServerError as error:
            if ready:
                raise
            self._served.why_not = str(error)

    def _prepare(self) -> str:
        with self._timed("install"):
            environment = ensure_environment(self._settings, self._say)
            return str(ensure_model(self._settings, environment, self._say))

    def _keys(self) -> tuple[list[Tenant], str]:
        """A key for each tenant, and one that opens the engine's counters."""
        store = open_store(self._store_url)
        try:
            tenants = [
                Tenant(name, project, self._key(store, name, project, "inference"))
                for name, project in TENANTS.items()
            ]
            return tenants, self._key(store, OPERATOR, OPERATOR, "operator")
        finally:
            store.dispose()

    def _key(self, store: Engine, tenant: str, project: str, scope: Scope) -> str:
        terms = KeyTerms(
            tenant=tenant,
            project=project,
            label="demo",
            scopes=(scope,),
            service_tiers=("standard",),
        )
        _, presented = create_key(
            store,
            terms,
            created_by=OPERATOR,
            now_ms=self._clock.now_ns() // NS_PER_MS,
            entropy=secrets.token_bytes(CREATION_ENTROPY_BYTES),
        )
        return presented.text()

    def _use(self, serving: Serving, tenants: Sequence[Tenant], operator: str) -> None:
        with self._timed("traffic"):
            self._served.asked = drive(
                f"{serving.base_url}/v1",
                serving.model,
                tenants,
                seed=self._seed,
                on_answer=lambda done, total: self._show("tenants ask the model", done, total),
                stop=self._stop,
            )
            self._served.counters = idle_counters(serving.base_url, operator)
        if serving.failure():
            raise ServerError(f"the served model ended by itself: {serving.failure()}")

    def _end(self, serving: Serving) -> None:
        self._say("stopping the model, closing its source")
        with self._timed("stop"):
            stopped = serving.stop()
        if not stopped.closed or stopped.unpublished or stopped.failure:
            raise ServerError(
                f"the served model's source {stopped.source} did not end in order: closed"
                f" {stopped.closed}, {stopped.unpublished} events unpublished {stopped.failure}"
            )
        (outbox,) = outboxes_of(self._settings)
        self._served.emitted = emitted_totals(outbox)

    def _say(self, text: str) -> None:
        self.doing = Doing(text)

    def _show(self, what: str, done: int, total: int) -> None:
        self.doing = Doing(what, done, total)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        self._served.seconds[name] = time.monotonic() - began_s


def refuse_shared(tenants: Collection[str]) -> None:
    """Refuse an assignment that names a tenant of the served model: its counts would be mixed.

    Raises:
        InputFileError: Naming the tenant.
    """
    shared = sorted(TENANTS.keys() & set(tenants))
    if shared:
        raise InputFileError(
            f"the assignment names tenant {shared[0]}, who uses the demo's served model: give it"
            " another name, or say --model none"
        )


def idle_counters(base_url: str, operator: str) -> VllmCounters:
    """VLLM's counters, once nothing runs any more: then they do not move.

    Raises:
        ServerError: If requests still run after `IDLE_S`, or there is no answer.
    """
    deadline_s = time.monotonic() + IDLE_S
    while time.monotonic() < deadline_s:
        try:
            answer = requests.get(
                f"{base_url}/metrics",
                headers={"Authorization": f"Bearer {operator}"},
                timeout=METRICS_TIMEOUT_S,
            )
            answer.raise_for_status()
        except requests.RequestException as error:
            raise ServerError(f"vLLM does not show its counters: {error}") from error
        counters = read_counters(answer.text)
        if not counters.busy:
            return counters
        time.sleep(POLL_S)
    raise ServerError(f"vLLM is still busy {IDLE_S} s after the last answer")
