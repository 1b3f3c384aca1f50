"""Mixes of traffic in five classes, run through the simulated engine: every step with its work."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from inference.attribution import StepWork
from inference.attribution_models import attribution_model
from inference.engine_meter import EngineMeter
from inference.simulate.assign import Owner, ServedModel
from inference.simulate.catalogue import CATALOGUE, Hardware
from inference.simulate.engine import EngineLimits, SimulatedEngine
from inference.simulate.plan import Arrival, PlannedRequest
from schemas.ids import uuid7
from schemas.units import NS_PER_HOUR, NS_PER_MS, NS_PER_S

START_NS = 1_790_812_800 * NS_PER_S
_CAP_NS = 5 * NS_PER_S


class TrafficClass(NamedTuple):
    """Requests of a kind: bounds of their prompt and answer, and how much of it the cache holds."""

    name: str
    context: tuple[int, int]
    generated: tuple[int, int]
    cached_permille: int


SHORT_CHAT = TrafficClass("short chat", (50, 600), (80, 400), 0)
LONG_CONTEXT = TrafficClass("long context", (16_000, 48_000), (150, 500), 0)
HEAVY_PREFILL = TrafficClass("heavy prefill", (3_000, 10_000), (1, 40), 0)
CACHED_PREFIX = TrafficClass("cached prefix", (4_000, 12_000), (100, 400), 900)
BATCH = TrafficClass("batch", (300, 2_000), (200, 1_000), 0)


@dataclass(frozen=True, slots=True)
class Mix:
    """What one engine serves: requests per 100 seconds of each class, for so many seconds.

    `bursts` lets everything that a second brings arrive together, as batch jobs do.
    """

    name: str
    model: str
    rates: tuple[tuple[TrafficClass, int], ...]
    duration_s: int
    bursts: bool = False

    def scaled(self, percent: int) -> "Mix":
        """The same traffic for longer or shorter."""
        return replace(self, duration_s=max(self.duration_s * percent // 100, 1))


MIXES = (
    Mix(
        "everything",
        "llama-3.1-8b",
        (
            (SHORT_CHAT, 400),
            (LONG_CONTEXT, 16),
            (HEAVY_PREFILL, 60),
            (CACHED_PREFIX, 100),
            (BATCH, 120),
        ),
        60,
    ),
    Mix(
        "chat with some long contexts",
        "llama-3.3-70b",
        ((SHORT_CHAT, 400), (LONG_CONTEXT, 5), (CACHED_PREFIX, 50)),
        60,
    ),
    Mix(
        "retrieval: prompts all day",
        "llama-3.1-8b",
        ((HEAVY_PREFILL, 320), (SHORT_CHAT, 240), (CACHED_PREFIX, 80)),
        60,
    ),
    Mix(
        "the same on an engine that cannot keep up",
        "llama-3.1-8b",
        ((HEAVY_PREFILL, 450), (SHORT_CHAT, 300), (CACHED_PREFIX, 100)),
        60,
    ),
    Mix(
        "agents on cached prefixes",
        "llama-3.1-405b",
        ((CACHED_PREFIX, 80), (LONG_CONTEXT, 3), (SHORT_CHAT, 80)),
        60,
    ),
    Mix(
        "batch jobs at night",
        "llama-4-scout",
        ((BATCH, 600), (HEAVY_PREFILL, 60), (SHORT_CHAT, 30)),
        60,
        bursts=True,
    ),
    Mix(
        "a quiet engine",
        "llama-4-maverick",
        ((SHORT_CHAT, 60), (LONG_CONTEXT, 4), (HEAVY_PREFILL, 10), (BATCH, 10)),
        100,
    ),
)


class Step(NamedTuple):
    """One step of an engine: who was in it, and what they computed."""

    requests: Sequence[str]
    work: StepWork


class KeptSteps(EngineMeter):
    """A meter that keeps what it is told of steps, and how long each request stayed."""

    def __init__(self, hardware: Hardware) -> None:
        super().__init__(
            gpus=hardware.gpus,
            profile=hardware.profile,
            model=attribution_model("equal"),
            start_ns=START_NS,
            stall_cap_ns=_CAP_NS,
            interval_ns=NS_PER_HOUR,
        )
        self.steps: list[Step] = []
        self.added_ns: dict[str, int] = {}
        self.wall_ns: dict[str, int] = {}

    def add(self, request: str, now_ns: int, *, prompt_tokens: int, admitted_ms: int) -> None:
        self.added_ns[request] = now_ns
        super().add(request, now_ns, prompt_tokens=prompt_tokens, admitted_ms=admitted_ms)

    def scheduled(self, now_ns: int, requests: Sequence[str], work: StepWork) -> None:
        self.steps.append(Step(requests, work))
        super().scheduled(now_ns, requests, work)

    def finish(
        self, request: str, now_ns: int, *, generated_tokens: int, drafts_rejected: int = 0
    ) -> None:
        self.wall_ns[request] = now_ns - self.added_ns[request]
        super().finish(
            request, now_ns, generated_tokens=generated_tokens, drafts_rejected=drafts_rejected
        )


@dataclass(frozen=True, slots=True)
class Ran:
    """A mix that ran to its end: its steps, and per request its class and wall ns in the engine."""

    mix: Mix
    hardware: Hardware
    steps: list[Step]
    class_of: dict[str, str]
    wall_ns: dict[str, int]


def run_mix(mix: Mix, seed: int) -> Ran:
    """Serve a mix on one simulated engine; the same seed gives the same steps."""
    hardware = CATALOGUE[mix.model]
    requests, class_of = planned_requests(mix, seed)
    meter = KeptSteps(hardware)
    meter.started(START_NS)
    limits = EngineLimits(kv_capacity_tokens=hardware.kv_capacity_tokens)
    for _ in SimulatedEngine(meter, hardware.profile, limits, requests).run():
        meter.take()
    return Ran(mix, hardware, meter.steps, class_of, meter.wall_ns)


def planned_requests(mix: Mix, seed: int) -> tuple[list[PlannedRequest], dict[str, str]]:
    """What arrives at the engine, by time, and the class of each request."""
    dice = random.Random(f"{seed} {mix.name}")
    served = ServedModel(name=mix.model, weight=1, replicas=1, hardware=CATALOGUE[mix.model])
    owner = Owner("tenant", "project", "key")
    drawn: list[tuple[int, TrafficClass]] = []
    for traffic, per_100_s in mix.rates:
        for _ in range(per_100_s * mix.duration_s // 100):
            at_ns = dice.randrange(mix.duration_s * NS_PER_S)
            drawn.append((at_ns // NS_PER_S * NS_PER_S if mix.bursts else at_ns, traffic))
    drawn.sort(key=lambda one: one[0])
    requests, class_of = [], {}
    for number, (at_ns, traffic) in enumerate(drawn):
        context = dice.randint(*traffic.context)
        admitted_ns = START_NS + at_ns
        name = uuid7(admitted_ns // NS_PER_MS, number)
        arrival = Arrival(
            label=traffic.name,
            recorded_ns=admitted_ns,
            entropy=b"",
            owner=owner,
            tier="standard",
            model=served,
            context_tokens=context,
            cached_tokens=context * traffic.cached_permille // 1_000,
            stop_at=dice.randint(*traffic.generated),
            outcome="stop",
            reasoning_permille=0,
        )
        requests.append(PlannedRequest(name, admitted_ns, arrival))
        class_of[name] = traffic.name
    return requests, class_of
