"""Books whose meter hears of steps later say the same to the bit, and a kill costs no more."""

from collections import deque
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.attribution import StepWork
from inference.attribution_models import attribution_model
from inference.engine_account import FinishedPart, Interval
from inference.engine_books import EngineBooks
from inference.engine_meter import EngineMeter
from inference.engine_records import (
    ENGINE_MARK,
    ENGINE_PART,
    ENGINE_SPAN,
    MarkRecord,
    PartRecord,
    RequestFacts,
    SpanRecord,
)
from inference.queued_steps import StepReport
from inference.settings import InferenceSettings
from inference.wire import Record
from schemas.ids import derived_uuid, uuid7
from schemas.units import NS_PER_MS, NS_PER_S
from tests.support.engine_boots import engine_boot
from tests.support.engine_frames import unpacked
from tests.support.engine_lives import CAP_NS, PROFILE, START_NS, Choice, Life, choices

ENGINE = derived_uuid("engine", "queued")


class Kept:
    """Books, and what they wrote."""

    def __init__(self, twins: "Twins", gpus: int, model: str) -> None:
        self.records: list[Record] = []
        # Parts and intervals in their order; not when each was written, which may differ.
        self.said: list[tuple[RequestFacts, FinishedPart] | Interval] = []
        boot = engine_boot(
            ENGINE, start_ns=START_NS, gpus=gpus, attribution_model=attribution_model(model).name
        )
        meter = EngineMeter(
            gpus=gpus,
            profile=PROFILE,
            model=attribution_model(model),
            start_ns=START_NS,
            stall_cap_ns=CAP_NS,
            interval_ns=2 * NS_PER_S,
        )
        self.books = EngineBooks(
            boot,
            meter,
            self,
            InferenceSettings(),
            now_ns=lambda: twins.clock_ns,
            generated=lambda name: twins.generated[name],
        )

    def append(self, records: Sequence[Record]) -> bool:
        for frame in records:
            for one in unpacked(frame):
                self.records.append(one)
                if one.kind == ENGINE_PART:
                    part = msgspec.json.decode(one.data, type=PartRecord)
                    self.said.append((part.facts, part.part))
                elif one.kind == ENGINE_SPAN:
                    span = msgspec.json.decode(one.data, type=SpanRecord)
                    self.said.append(span.interval)
        return True

    def mark(self) -> MarkRecord:
        self.books.mark()
        last = self.records[-1]
        assert last.kind == ENGINE_MARK
        return msgspec.json.decode(last.data, type=MarkRecord)


class Twins:
    """Is told what a meter is told, and tells two books: one at once, the other now and then.

    Steps are reported as vLLM does: by reference, who is new apart from who ran before.

    Args:
        gpus: Of the engine.
        model: Of the attribution.
        pauses: After so many reports the queued books are written out, one after the other.
    """

    def __init__(self, gpus: int, model: str, pauses: Sequence[int]) -> None:
        self.clock_ns = START_NS
        self.generated: dict[str, int] = {}
        self.at_once = Kept(self, gpus, model)
        self.queued = Kept(self, gpus, model)
        self._pauses = list(pauses)
        self._ran: set[str] = set()
        self._launched: deque[dict[str, int]] = deque()

    def _both(self, now_ns: int) -> list[EngineBooks]:
        self.clock_ns = now_ns
        return [self.at_once.books, self.queued.books]

    def _report(self, now_ns: int, report: StepReport) -> None:
        for books in self._both(now_ns):
            books.steps.append(report)
        self.at_once.books.write_out()

    def started(self, now_ns: int) -> None:
        for books in self._both(now_ns):
            books.started()

    def add(self, request: str, now_ns: int, *, prompt_tokens: int, admitted_ms: int) -> None:
        facts = RequestFacts(uuid7(admitted_ms, len(self.generated)), request, prompt_tokens)
        self.generated[request] = 0
        for books in self._both(now_ns):
            books.add(facts)

    def scheduled(self, now_ns: int, requests: Sequence[str], work: StepWork) -> None:
        tokens_of = dict(zip(requests, work.tokens, strict=True))
        before = dict(zip(requests, work.computed, strict=True))
        ran = sorted(self._ran.intersection(requests))
        new = [(one, before[one]) for one in requests if one not in self._ran]
        self._ran.update(requests)
        self._launched.append(tokens_of)
        self._report(now_ns, (now_ns, tokens_of, ran, [before[one] for one in ran], new))

    def step_done(self, now_ns: int) -> None:
        self._report(now_ns, (now_ns, self._launched.popleft()))

    def preempted(self, request: str, now_ns: int, *, computed: int) -> None:
        for books in self._both(now_ns):
            books.preempted(request, computed)

    def finish(self, request: str, now_ns: int, *, generated_tokens: int) -> None:
        self.generated[request] = generated_tokens
        for books in self._both(now_ns):
            books.finish(request, generated_tokens, "length")

    def snapshot(self, now_ns: int) -> None:
        """A mark: from it on both have written the same."""
        self.clock_ns = now_ns
        assert self.queued.mark() == self.at_once.mark()
        assert self.queued.said == self.at_once.said

    def take(self) -> list[FinishedPart | Interval]:
        """Something has happened; what was written is elsewhere."""
        self.at_once.books.write_out()
        if self._pauses:
            self._pauses[-1] -= 1
            if self._pauses[-1] < 0:
                self._pauses.pop()
                self.queued.books.write_out()
                assert not self.queued.books.steps
        # What a kill would leave of the one is how the other began.
        said = self.queued.said
        assert said == self.at_once.said[: len(said)]
        return []


class TwinLife(Life):
    """A life that is told to twins."""

    def __init__(self, choices: list[Choice], gpus: int, model: str, pauses: list[int]) -> None:
        self.twins = Twins(gpus, model, pauses)
        super().__init__(gpus, model)
        self.live_through(choices)

    def told(self) -> Twins:
        return self.twins


lives = st.builds(
    TwinLife,
    choices,
    st.integers(1, 8),
    st.sampled_from(["equal", "fixed_marginal"]),
    st.lists(st.integers(0, 40), max_size=12),
)


@settings(max_examples=60)
@given(lives)
def test_books_that_account_later_say_the_same_to_the_bit(life: TwinLife) -> None:
    twins = life.twins
    for kept in (twins.at_once, twins.queued):
        kept.books.stop()
        assert kept.books.faults == 0
    assert twins.queued.said == twins.at_once.said
    assert sum(not isinstance(one, Interval) for one in twins.queued.said) == len(life.clients)


@settings(max_examples=30)
@given(lives, st.integers(1, 5))
def test_step_that_cannot_be_accounted_for_blinds_both_alike(life: TwinLife, steps: int) -> None:
    twins, now_ns = life.twins, life.now_ns + 1
    twins.add("after", now_ns, prompt_tokens=5, admitted_ms=now_ns // NS_PER_MS)
    for number in range(steps):
        wrong = "nobody" if number == steps // 2 else "after"
        twins.scheduled(now_ns, [wrong], StepWork(1, [1], [0]))
    twins.finish("after", now_ns, generated_tokens=7)
    for kept in (twins.at_once, twins.queued):
        kept.books.write_out()
        assert kept.books.faults == 1
        assert not kept.books.steps
    assert twins.queued.said[-1] == twins.at_once.said[-1]
