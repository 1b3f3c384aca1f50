"""Runs one planned replica: engine and meter, then the outbox in its folder."""

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path

from inference.attribution_models import attribution_model
from inference.engine_account import FinishedPart, Interval
from inference.engine_meter import EngineMeter
from inference.outbox import Outbox, SourceIdentity
from inference.settings import InferenceSettings
from inference.simulate.assign import PERMILLE, Owner
from inference.simulate.emitted import Counts, EmittedSource
from inference.simulate.engine import EngineLimits, SimulatedEngine
from inference.simulate.plan import PlannedReplica, PlannedRequest
from inference.simulate.request_form import request_form
from inference.wire import (
    THE_SOURCE,
    CapacityWire,
    EngineLabels,
    Record,
    format_time,
    interval_record,
    to_json,
)
from infra.signing import SourceKey
from schemas.errors import SpoolFullError
from schemas.ids import derived_entropy, uuid7
from schemas.units import NS_PER_MS, NS_PER_S
from schemas.usage import Outcome

STARTUP_NS = 30 * NS_PER_S
"""An engine boots for this long, or until its first request, whichever is sooner."""


def run_replica(
    planned: PlannedReplica,
    *,
    opened_ms: int,
    region: str,
    folder: Path,
    settings: InferenceSettings,
    on_requests: Callable[[int], None],
) -> tuple[Counts, EmittedSource]:
    """Simulate one replica into the outbox in `folder`; the source is closed at the end.

    Args:
        planned: The replica and its requests.
        opened_ms: When its source opens and its engine boots.
        region: Where it stands.
        folder: For its outbox.
        settings: Intervals, attribution, bounds.
        on_requests: Called with the number of requests finished since the last call.

    Raises:
        SpoolFullError: If the outbox reaches its bound.
    """
    labels = EngineLabels(
        planned.engine,
        planned.model.name,
        planned.name,
        region,
        planned.model.hardware.gpu_type,
        planned.model.hardware.gpus,
    )
    identity = SourceIdentity(
        source=planned.source,
        host=planned.name,
        software=f"rentroll {version('rentroll')} simulate",
        key=SourceKey(planned.key_seed),
    )
    writer = RecordWriter(labels, settings)
    outbox = Outbox(folder, identity, settings, opened_ms=opened_ms)
    for requests in _taken(writer.records(planned, opened_ms), writer, outbox, folder):
        on_requests(requests)
    outbox.close_source("drained", now_ms=writer.end_ms)
    writer.counts.records = outbox.events
    writer.counts.value_bytes = outbox.added_bytes
    outbox.close()
    return writer.counts, EmittedSource(
        source=identity.source,
        host=identity.host,
        public_key=identity.key.public_key_hex(),
        events=outbox.events,
    )


def _taken(
    records: Iterable[Record], writer: "RecordWriter", outbox: Outbox, folder: Path
) -> Iterator[int]:
    """Hand records to the outbox, a batch at a time, so that few are in memory.

    No spool lies between: whoever dies here starts anew, from the same plan.

    Yields:
        How many requests finished since the last time.
    """
    settings, source, reported = writer.settings, iter(records), 0
    while batch := list(islice(source, settings.outbox_batch_records)):
        if outbox.pending_bytes() >= settings.outbox_max_bytes:
            raise SpoolFullError(
                f"{folder}: the outbox is at its bound outbox_max_bytes; publish it, or"
                " raise RENTROLL_INFERENCE_OUTBOX_MAX_BYTES",
            )
        outbox.take(batch, outbox.position)
        yield writer.counts.requests - reported
        reported = writer.counts.requests


class RecordWriter:
    """Turns what one engine's meter says into records, and counts what it writes."""

    def __init__(self, labels: EngineLabels, settings: InferenceSettings) -> None:
        self._labels = labels
        self.settings = settings
        self._attribution = attribution_model(settings.attribution)
        self._open: dict[str, PlannedRequest] = {}
        self._forms: dict[tuple[Owner, str, Outcome], bytes] = {}
        self.counts = Counts()
        self.end_ms = 0

    def records(self, planned: PlannedReplica, opened_ms: int) -> Iterator[Record]:
        """Everything the replica has to say, in the order in which it must be written."""
        hardware = planned.model.hardware
        start_ns = opened_ms * NS_PER_MS
        meter = EngineMeter(
            gpus=hardware.gpus,
            profile=hardware.profile,
            model=self._attribution,
            start_ns=start_ns,
            stall_cap_ns=self.settings.step_cap_ns,
            interval_ns=self.settings.interval_s * NS_PER_S,
        )
        yield self._capacity(opened_ms, hardware.gpus)
        requests = planned.requests()
        first_ns = requests[0].admitted_ns if requests else start_ns
        meter.started(min(start_ns + STARTUP_NS, first_ns))
        limits = EngineLimits(kv_capacity_tokens=hardware.kv_capacity_tokens)
        engine = SimulatedEngine(meter, hardware.profile, limits, requests)
        self._open = {request.id: request for request in requests}
        last_ns = start_ns
        for refused in engine.run():
            for output in meter.take():
                last_ns = max(last_ns, _end_of(output))
                yield self._record(output)
            if refused is not None:
                last_ns = max(last_ns, refused.admitted_ns)
                yield self._refused(self._open.pop(refused.id))
        self.end_ms = -(-last_ns // NS_PER_MS)
        meter.snapshot(self.end_ms * NS_PER_MS)
        for output in meter.take():
            yield self._record(output)
        yield self._capacity(self.end_ms, 0)

    def _record(self, output: FinishedPart | Interval) -> Record:
        if isinstance(output, FinishedPart):
            return self._finished(self._open.pop(output.request), output)
        self.counts.count_interval(output)
        entropy = derived_entropy(self._labels.engine, "interval", str(output.end_ns))
        return interval_record(uuid7(output.end_ns // NS_PER_MS, entropy), self._labels, output)

    def _finished(self, planned: PlannedRequest, part: FinishedPart) -> Record:
        event_id, admitted_ns, arrival = planned
        label, _, _, owner, tier, _, context, cached, _, outcome, reasoning_permille = arrival
        _, ordinal, gpu_ns, gpu_prefill_ns, gpu_recompute_ns, generated, *computed = part
        _, scheduled_ns, first_token_ns, finished_ns = computed[-4:]
        reasoning = generated * reasoning_permille // PERMILLE
        data = self._form(owner, tier, outcome) % (
            to_json(label),
            format_time(finished_ns // NS_PER_MS).encode(),
            context - cached,
            cached,
            generated - reasoning,
            reasoning,
            generated,
            # Whoever hung up did so before the last token came.
            generated - (outcome == "client_gone" and generated > 0),
            gpu_ns,
            gpu_prefill_ns,
            gpu_recompute_ns,
            scheduled_ns - admitted_ns if scheduled_ns else 0,
            first_token_ns - admitted_ns if first_token_ns and generated else 0,
            finished_ns - admitted_ns,
            ordinal,
            gpu_ns,
            generated,
            *computed[:-4],
        )
        self.counts.count_request(
            outcome, gpu_ns, (context - cached, cached, 0, generated - reasoning, reasoning)
        )
        return Record("request.finished", event_id, owner.tenant, data)

    def _refused(self, planned: PlannedRequest) -> Record:
        """Turned away at the door: no tokens, no engine, no part."""
        event_id, admitted_ns, arrival = planned
        form = self._form(arrival.owner, arrival.tier, arrival.outcome)
        when = format_time(admitted_ns // NS_PER_MS).encode()
        self.counts.count_request(arrival.outcome, 0, (0, 0, 0, 0, 0))
        data = form % (to_json(arrival.label), when)
        return Record("request.finished", event_id, arrival.owner.tenant, data)

    def _form(self, owner: Owner, tier: str, outcome: Outcome) -> bytes:
        kind = (owner, tier, outcome)
        form = self._forms.get(kind)
        if form is None:
            form = request_form(self._labels, self._attribution.name, *kind)
            self._forms[kind] = form
        return form

    def _capacity(self, unix_ms: int, gpus: int) -> Record:
        """The replica is a pool of its own: its GPUs are owned from now on, or no more."""
        labels = self._labels
        data = CapacityWire(
            pool=labels.replica,
            region=labels.region,
            gpu_type=labels.gpu_type,
            gpus_with_engine=gpus,
            gpus_without_engine=0,
            gpus_leased=0,
            effective_at=format_time(unix_ms),
        )
        entropy = derived_entropy(labels.engine, "capacity", str(gpus))
        return Record("capacity.owned", uuid7(unix_ms, entropy), THE_SOURCE, to_json(data))


def _end_of(output: FinishedPart | Interval) -> int:
    return output.finished_ns if isinstance(output, FinishedPart) else output.end_ns
