"""Random lives of an engine: what a scheduler with two steps in flight tells a meter."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hypothesis import strategies as st

from inference.attribution import EngineProfile, StepWork
from inference.attribution_models import attribution_model
from inference.engine_account import FinishedPart, Interval
from inference.engine_meter import EngineMeter
from schemas.units import NS_PER_HOUR, NS_PER_S

PROFILE = EngineProfile(
    weight_bytes=16_000_000_000,
    kv_bytes_per_token=131_072,
    flops_per_token=16_000_000_000,
    attention_flops=524_288,
    bandwidth_bytes_per_s=2_680_000_000_000,
    peak_flops_per_s=494_000_000_000_000,
    pass_overhead_ns=0,
)
START_NS = 1_790_812_800_000_000_000 + NS_PER_HOUR - 3 * NS_PER_S
"""Three seconds before an hour ends, so that most lives cross it."""
CAP_NS = 400_000_000

Choice = tuple[int, int, int]
choices = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 900_000_000), st.integers(0, 1 << 20)),
    max_size=120,
)


class Told(Protocol):
    """What of a meter a life needs."""

    def started(self, now_ns: int) -> None: ...
    def add(self, request: str, now_ns: int, *, prompt_tokens: int, admitted_ms: int) -> None: ...
    def scheduled(self, now_ns: int, requests: Sequence[str], work: StepWork) -> None: ...
    def step_done(self, now_ns: int) -> None: ...
    def preempted(self, request: str, now_ns: int, *, computed: int) -> None: ...
    def finish(self, request: str, now_ns: int, *, generated_tokens: int) -> None: ...
    def snapshot(self, now_ns: int) -> None: ...
    def take(self) -> list[FinishedPart | Interval]: ...


@dataclass
class Client:
    """What the driver knows of a request; the meter must come to the same."""

    prompt: int
    admitted_ms: int
    computed: int = 0
    generated: int = 0
    scheduled: int = 0
    lost: int = 0
    drafts_rejected: int = 0
    in_flight: int = 0
    ended: bool = False


@dataclass
class Life:
    """Drives a meter by random choices like a scheduler that keeps two steps in flight."""

    gpus: int
    model: str
    clients: dict[str, Client] = field(default_factory=dict)
    in_flight: deque[list[tuple[str, int]]] = field(default_factory=deque)
    out: list[FinishedPart | Interval] = field(default_factory=list)
    now_ns: int = START_NS

    def __post_init__(self) -> None:
        self.meter = self.told()

    def told(self) -> Told:
        """Whom this life is told to: a meter."""
        return EngineMeter(
            gpus=self.gpus,
            profile=PROFILE,
            model=attribution_model(self.model),
            start_ns=START_NS,
            stall_cap_ns=CAP_NS,
            interval_ns=2 * NS_PER_S,
        )

    def live(self) -> None:
        """Called whenever something has happened."""
        self.out += self.meter.take()

    def act(self, choice: Choice) -> None:
        what, wait_ns, pick = choice
        # Now and then the clock steps back: the meter must not mind.
        self.now_ns += wait_ns if pick % 11 else -wait_ns // 7
        open_ids = [name for name, client in self.clients.items() if not client.ended]
        if what <= 1:
            self.add(pick)
        elif what <= 4:
            self.launch(open_ids, pick)
        elif what <= 6 and self.in_flight:
            self.end_step(pick)
        elif what == 7 and open_ids:
            self.finish(open_ids[pick % len(open_ids)])
        elif what == 8 and open_ids:
            self.preempt(open_ids[pick % len(open_ids)])
        else:
            self.meter.snapshot(self.now_ns)
        self.live()

    def add(self, pick: int) -> None:
        name = f"request-{len(self.clients):03d}"
        admitted_ms = self.now_ns // 1_000_000 - pick % 50
        self.clients[name] = Client(prompt=pick % 700, admitted_ms=admitted_ms)
        self.meter.add(
            name,
            self.now_ns,
            prompt_tokens=pick % 700,
            admitted_ms=admitted_ms,
        )

    def launch(self, open_ids: list[str], pick: int) -> None:
        if len(self.in_flight) == 2:
            return
        chosen = [name for index, name in enumerate(open_ids) if pick >> index & 1]
        step, tokens, computed = [], [], []
        for name in chosen:
            client = self.clients[name]
            todo = max(client.prompt + client.generated - client.computed, 0)
            # Past what is known: a draft, or a token that a step in flight will sample.
            chunk = min(todo, 1 + pick % 300) if todo else pick % 4
            step.append((name, chunk))
            tokens.append(chunk)
            computed.append(client.computed)
            client.computed += chunk
            client.scheduled += chunk
            client.in_flight += 1
        self.in_flight.append(step)
        self.meter.scheduled(self.now_ns, [name for name, _ in step], StepWork(1, tokens, computed))

    def end_step(self, pick: int) -> None:
        for name, chunk in self.in_flight.popleft():
            client = self.clients[name]
            client.in_flight -= 1
            # Tokens that exist: one from the prompt, then at most one per decoding token.
            decoded = client.scheduled - client.lost - client.prompt
            if (
                client.computed >= client.prompt
                and not client.ended
                and decoded >= client.generated
            ):
                client.generated += 1 if pick % 3 else 0
            del chunk
        self.meter.step_done(self.now_ns)

    def finish(self, name: str) -> None:
        client = self.clients[name]
        client.ended = True
        self.meter.finish(name, self.now_ns, generated_tokens=client.generated)

    def preempt(self, name: str) -> None:
        client = self.clients[name]
        if client.in_flight:
            return
        self.meter.preempted(name, self.now_ns, computed=client.computed)
        client.lost += client.computed
        client.computed = 0

    def end(self) -> None:
        while self.in_flight:
            self.now_ns += 5_000_000
            self.end_step(1)
        for name, client in self.clients.items():
            if not client.ended:
                self.finish(name)
        self.now_ns += 1
        self.meter.snapshot(self.now_ns)
        self.live()

    def live_through(self, choices: list[Choice]) -> None:
        """From the start to the last request's end."""
        self.meter.started(START_NS + 100_000_000)
        self.now_ns += 100_000_000
        for choice in choices:
            self.act(choice)
        self.end()
