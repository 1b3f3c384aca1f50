"""A simulation's plan: every request with its owner, model and replica, drawn from the seed. Pure.

Ids come from the run key, a digest of all that decides the bytes: the same simulation run again
re-sends the same events, and any other one has other ids.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from inference.attribution_models import attribution_model
from inference.settings import InferenceSettings
from inference.simulate.assign import Owner, Roster, ServedModel, cached_tokens
from inference.simulate.timeline import Timeline
from inference.simulate.trace import Trace
from schemas.ids import derived_entropy, derived_hex, derived_uuid, uuid7
from schemas.units import MS_PER_HOUR, NS_PER_MS
from schemas.usage import Outcome

RULES_VERSION = "simulate.1"
"""Raised with every change here or in the engine that changes bytes."""
_DRAW = struct.Struct(">10sIIIIIH")
_DRAW_ROWS = 8_192


class Draw(NamedTuple):
    """What the seed says about one row."""

    entropy: bytes
    tenant: int
    owner: int
    model: int
    tier: int
    cache_hit: int
    cache_share: int


class Arrival(NamedTuple):
    """A client request as its trace or fleet has it, at the time recorded there.

    `stop_at` is how many tokens are generated before `outcome` happens; a refused request gets
    none. `reasoning_permille` of what is generated is reasoning.
    """

    label: str
    recorded_ns: int
    entropy: bytes
    owner: Owner
    tier: str
    model: ServedModel
    context_tokens: int
    cached_tokens: int
    stop_at: int
    outcome: Outcome
    reasoning_permille: int


class PlannedRequest(NamedTuple):
    """An arrival with its id and its time on the run's timeline."""

    id: str
    admitted_ns: int
    arrival: Arrival


@dataclass(frozen=True, slots=True)
class PlannedReplica:
    """One engine, the source that speaks for it, and what it will serve: (admitted ns, arrival)."""

    name: str
    source: str
    engine: str
    key_seed: bytes
    model: ServedModel
    run_entropy: int
    arrivals: list[tuple[int, Arrival]]

    def requests(self) -> list[PlannedRequest]:
        """Its requests by time, with their ids; made where the replica runs."""
        run_entropy = self.run_entropy
        return [
            PlannedRequest(
                uuid7(
                    admitted_ns // NS_PER_MS, int.from_bytes(arrival.entropy, "big") ^ run_entropy
                ),
                admitted_ns,
                arrival,
            )
            for admitted_ns, arrival in self.arrivals
        ]


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be simulated, before it has a place in time; arrivals by time."""

    name: str
    sha256: str
    seed: int
    roster: Roster
    arrivals: Sequence[Arrival]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that will happen, but for what the engines make of it.

    `opened_ms` is the start of the UTC hour of the first request: every source opens then.
    """

    run_key: str
    workload: Workload
    timeline: Timeline
    settings: InferenceSettings
    opened_ms: int
    replicas: tuple[PlannedReplica, ...]

    @property
    def requests(self) -> int:
        """Client requests in all."""
        return len(self.workload.arrivals)


def draws(seed: int, count: int) -> Iterator[Draw]:
    """A draw per row, from a hash of the seed and the row's block: row `i`'s never changes."""
    for block in range(0, count, _DRAW_ROWS):
        stream = hashlib.shake_256(f"rentroll {RULES_VERSION} {seed} {block}".encode())
        rows = min(_DRAW_ROWS, count - block)
        yield from map(Draw._make, _DRAW.iter_unpack(stream.digest(rows * _DRAW.size)))


def workload_of_trace(trace: Trace, *, seed: int, roster: Roster) -> Workload:
    """Give every row of a trace its owner, model, tier and cached prefix."""
    by_row = list(draws(seed, len(trace.rows)))
    models = [model for model in roster.models for _ in range(model.weight)]
    owners, tiers, cache = roster.owners, roster.tiers, roster.cache
    arrivals: list[Arrival] = []
    for row, recorded_ns, context, generated in trace.rows:
        entropy, tenant, owner, model, tier, cache_hit, cache_share = by_row[row]
        keys = owners[tenant % len(owners)]
        arrivals.append(
            Arrival(
                f"{trace.name[:200]}:{row}" if trace.name.isascii() else f"row:{row}",
                recorded_ns,
                entropy,
                keys[owner % len(keys)],
                tiers[tier % len(tiers)],
                models[model % len(models)],
                context,
                cached_tokens(cache, context, cache_hit, cache_share),
                generated,
                "stop",
                0,
            )
        )
    return Workload(trace.name, trace.sha256, seed, roster, arrivals)


def make_plan(workload: Workload, *, timeline: Timeline, settings: InferenceSettings) -> Plan:
    """Place a workload in time and its requests on replicas."""
    run_key = derived_hex(
        RULES_VERSION,
        workload.name,
        workload.sha256,
        str(workload.seed),
        workload.roster.sha256,
        f"{timeline.origin_ns} {timeline.shift_ns} {timeline.divisor}",
        attribution_model(settings.attribution).name,
        f"{settings.step_cap_ns} {settings.interval_s}",
    )
    replicas = _replicas(run_key, workload.roster)
    choose = {model: _LeastLoaded(found) for model, found in replicas.items()}
    for arrival in workload.arrivals:
        admitted_ns = timeline(arrival.recorded_ns)
        replica = choose[arrival.model.name].replica_for(arrival, admitted_ns)
        replica.arrivals.append((admitted_ns, arrival))
    first_ns = timeline(workload.arrivals[0].recorded_ns) if workload.arrivals else 0
    return Plan(
        run_key=run_key,
        workload=workload,
        timeline=timeline,
        settings=settings,
        opened_ms=first_ns // NS_PER_MS // MS_PER_HOUR * MS_PER_HOUR,
        replicas=tuple(one for found in replicas.values() for one in found),
    )


def _replicas(run_key: str, roster: Roster) -> dict[str, list[PlannedReplica]]:
    return {
        model.name: [
            PlannedReplica(
                name=f"{model.name}-{number}",
                source=derived_uuid(run_key, model.name, str(number), "source"),
                engine=derived_uuid(run_key, model.name, str(number), "engine"),
                key_seed=bytes.fromhex(derived_hex(run_key, model.name, str(number), "key")),
                model=model,
                run_entropy=derived_entropy(run_key, "event"),
                arrivals=[],
            )
            for number in range(1, model.replicas + 1)
        ]
        for model in roster.models
    }


class _LeastLoaded:
    """Routes to the replica that a rough estimate says is free first.

    The estimate needs no simulation, so replicas stay independent and run side by side.
    """

    _BATCH = 8

    def __init__(self, replicas: list[PlannedReplica]) -> None:
        profile = replicas[0].model.hardware.profile
        self._replicas = replicas
        self._free_ns = [0] * len(replicas)
        self._prefill_ns = 1 + profile.compute_ns(profile.flops_per_token * 1_000) // 1_000
        self._decode_ns = 1 + profile.read_ns(profile.weight_bytes) // self._BATCH

    def replica_for(self, arrival: Arrival, now_ns: int) -> PlannedReplica:
        free_ns = self._free_ns
        chosen = free_ns.index(min(free_ns))
        work_ns = arrival.context_tokens * self._prefill_ns + arrival.stop_at * self._decode_ns
        free_ns[chosen] = max(free_ns[chosen], now_ns) + work_ns
        return self._replicas[chosen]
