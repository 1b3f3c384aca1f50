"""Laws 2 and 3 on random lives of an engine: time and tokens are conserved, to the last one."""

from collections import deque
from dataclasses import dataclass, field

from hypothesis import given
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
        self.meter = EngineMeter(
            gpus=self.gpus,
            profile=PROFILE,
            model=attribution_model(self.model),
            start_ns=START_NS,
            stall_cap_ns=CAP_NS,
            interval_ns=2 * NS_PER_S,
        )

    def live(self) -> None:
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


def lived(choices: list[Choice], gpus: int, model: str) -> Life:
    life = Life(gpus, model)
    life.meter.started(START_NS + 100_000_000)
    life.now_ns += 100_000_000
    for choice in choices:
        life.act(choice)
    life.end()
    return life


lives = st.builds(
    lived, choices, st.integers(1, 8), st.sampled_from(["equal", "token_share", "fixed_marginal"])
)


@given(lives)
def test_intervals_follow_each_other_and_account_for_every_nanosecond(life: Life) -> None:
    intervals = [one for one in life.out if isinstance(one, Interval)]
    end_ns, open_ns, in_flight_ns, ordinal = START_NS, 0, 0, 0
    for one in intervals:
        assert one.start_ns == end_ns <= one.end_ns
        last_ns = max(one.end_ns - 1, one.start_ns)
        assert one.start_ns // NS_PER_HOUR == last_ns // NS_PER_HOUR
        assert one.open_step_start_ns == open_ns
        assert one.in_flight_start_ns == in_flight_ns
        assert one.ordinal_start == ordinal
        assert one.owned_ns == life.gpus * (one.end_ns - one.start_ns)
        assert one.owned_ns == (
            one.attributed_ns
            + one.stall_ns
            + one.idle_ns
            + one.overhead_ns
            + one.startup_ns
            + one.open_step_end_ns
            - one.open_step_start_ns
        )
        assert min(one) >= 0
        end_ns, open_ns = one.end_ns, one.open_step_end_ns
        in_flight_ns, ordinal = one.in_flight_end_ns, one.ordinal_end
    assert open_ns == in_flight_ns == 0


@given(lives)
def test_parts_and_requests_in_flight_hold_what_was_attributed(life: Life) -> None:
    ns_of = {one.ordinal: one.gpu_ns for one in life.out if isinstance(one, FinishedPart)}
    assert sorted(ns_of) == list(range(1, len(life.clients) + 1)), "dense ordinals, one each"
    for one in life.out:
        if isinstance(one, Interval):
            finished_ns = sum(
                ns_of[ordinal] for ordinal in range(one.ordinal_start + 1, one.ordinal_end + 1)
            )
            assert finished_ns + one.in_flight_end_ns - one.in_flight_start_ns == (
                one.attributed_ns
            )


@given(lives)
def test_parts_precede_the_interval_that_counts_them(life: Life) -> None:
    written = 0
    for one in life.out:
        if isinstance(one, FinishedPart):
            written = one.ordinal
        else:
            assert one.ordinal_end == written


@given(lives)
def test_tokens_of_every_part_are_conserved(life: Life) -> None:
    for part in life.out:
        if isinstance(part, Interval):
            continue
        client = life.clients[part.request]
        assert part.generated_tokens == client.generated
        assert client.scheduled == (
            part.prompt_computed_tokens + part.recomputed_tokens + part.decode_scheduled_tokens
        )
        assert part.decode_scheduled_tokens == (
            max(part.generated_tokens - 1, 0) + part.drafts_rejected_tokens + part.discarded_tokens
        )
        assert part.prompt_computed_tokens <= client.prompt
        assert part.gpu_prefill_ns + part.gpu_recompute_ns <= part.gpu_ns
    scheduled = sum(one.tokens_scheduled for one in life.out if isinstance(one, Interval))
    assert scheduled == sum(client.scheduled for client in life.clients.values())


@given(lives)
def test_no_part_behind_an_interval_was_admitted_before_its_low_watermark(life: Life) -> None:
    for index, interval in enumerate(life.out):
        if isinstance(interval, FinishedPart):
            continue
        for later in life.out[index + 1 :]:
            if isinstance(later, FinishedPart) and later.added_ns < interval.end_ns:
                assert life.clients[later.request].admitted_ms >= interval.oldest_open_ms
