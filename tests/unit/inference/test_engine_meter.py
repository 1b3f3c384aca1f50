"""The time ledger of one engine, in small stories with figures one can check by hand."""

from collections.abc import Callable

import pytest

from inference.attribution import EngineProfile, StepWork
from inference.attribution_models import attribution_model
from inference.engine_account import FinishedPart, Interval
from inference.engine_meter import EngineMeter
from schemas.errors import ConservationError
from schemas.units import NS_PER_HOUR, NS_PER_S

HOUR_NS = 1_790_812_800 * NS_PER_S
PROFILE = EngineProfile(
    weight_bytes=1_000,
    kv_bytes_per_token=1,
    flops_per_token=1,
    attention_flops=0,
    bandwidth_bytes_per_s=NS_PER_S,
    peak_flops_per_s=NS_PER_S,
    pass_overhead_ns=0,
)


def meter(*, gpus: int = 2, start_ns: int = HOUR_NS, cap_ns: int = NS_PER_S) -> EngineMeter:
    return EngineMeter(
        gpus=gpus,
        profile=PROFILE,
        model=attribution_model("equal"),
        start_ns=start_ns,
        stall_cap_ns=cap_ns,
        interval_ns=5 * NS_PER_S,
    )


def one(tokens: int = 1, computed: int = 0) -> StepWork:
    return StepWork(1, [tokens], [computed])


def intervals(engine: EngineMeter) -> list[Interval]:
    return [output for output in engine.take() if isinstance(output, Interval)]


def test_every_kind_of_time_has_its_place() -> None:
    engine = meter()
    at = HOUR_NS
    engine.started(at + 100)
    engine.add("r", at + 150, prompt_tokens=3, admitted_ms=0)
    engine.scheduled(at + 160, ["r"], one(3))
    engine.step_done(at + 200)
    engine.finish("r", at + 230, generated_tokens=1)
    engine.snapshot(at + 300)
    part, interval = engine.take()
    assert isinstance(part, FinishedPart)
    assert isinstance(interval, Interval)
    assert part.gpu_ns == 2 * 40
    assert (part.first_scheduled_ns, part.first_token_ns) == (at + 160, at + 200)
    assert interval.startup_ns == 2 * 100
    assert interval.idle_ns == 2 * (50 + 70)
    assert interval.overhead_ns == 2 * (10 + 30)
    assert interval.attributed_ns == 2 * 40
    assert interval.owned_ns == 2 * 300


def test_time_of_a_step_above_the_cap_is_stall() -> None:
    engine = meter(gpus=1, cap_ns=1_000)
    engine.add("r", HOUR_NS, prompt_tokens=1, admitted_ms=0)
    engine.scheduled(HOUR_NS, ["r"], one())
    engine.step_done(HOUR_NS + 1_500)
    engine.finish("r", HOUR_NS + 1_500, generated_tokens=1)
    engine.snapshot(HOUR_NS + 1_500)
    part, interval = engine.take()
    assert isinstance(part, FinishedPart)
    assert isinstance(interval, Interval)
    assert (part.gpu_ns, interval.stall_ns) == (1_000, 500)


def test_step_without_requests_is_overhead() -> None:
    engine = meter(gpus=1)
    engine.add("r", HOUR_NS, prompt_tokens=1, admitted_ms=0)
    engine.scheduled(HOUR_NS, [], StepWork(1, [], []))
    engine.step_done(HOUR_NS + 70)
    engine.snapshot(HOUR_NS + 70)
    (interval,) = intervals(engine)
    assert (interval.overhead_ns, interval.steps, interval.waiting_requests) == (70, 1, 1)


def test_steps_in_flight_do_not_overlap_in_the_account() -> None:
    engine = meter(gpus=1)
    for name in ("a", "b"):
        engine.add(name, HOUR_NS, prompt_tokens=1, admitted_ms=0)
    engine.scheduled(HOUR_NS, ["a"], one())
    engine.scheduled(HOUR_NS + 10, ["b"], one())
    engine.step_done(HOUR_NS + 100)
    engine.step_done(HOUR_NS + 160)
    for name in ("a", "b"):
        engine.finish(name, HOUR_NS + 160, generated_tokens=1)
    parts = [output for output in engine.take() if isinstance(output, FinishedPart)]
    assert [(part.request, part.gpu_ns) for part in parts] == [("a", 100), ("b", 60)]


def test_aborted_request_is_final_only_when_its_last_step_is_in() -> None:
    engine = meter(gpus=1)
    engine.add("r", HOUR_NS, prompt_tokens=1, admitted_ms=0)
    engine.scheduled(HOUR_NS, ["r"], one())
    engine.scheduled(HOUR_NS + 1, ["r"], one(computed=1))
    engine.step_done(HOUR_NS + 50)
    engine.finish("r", HOUR_NS + 60, generated_tokens=1)
    assert engine.take() == []
    engine.step_done(HOUR_NS + 90)
    (part,) = engine.take()
    assert isinstance(part, FinishedPart)
    assert (part.gpu_ns, part.finished_ns) == (90, HOUR_NS + 60)
    assert (part.decode_scheduled_tokens, part.discarded_tokens) == (1, 1)


def test_preempted_request_computes_its_tokens_again_and_says_so() -> None:
    engine = meter(gpus=1)
    engine.add("r", HOUR_NS, prompt_tokens=10, admitted_ms=0)
    engine.scheduled(HOUR_NS, ["r"], one(10))
    engine.step_done(HOUR_NS + 10)
    engine.scheduled(HOUR_NS + 10, ["r"], one(1, 10))
    engine.step_done(HOUR_NS + 20)
    engine.preempted("r", HOUR_NS + 20, computed=11)
    engine.scheduled(HOUR_NS + 20, ["r"], one(12, 0))
    engine.step_done(HOUR_NS + 32)
    engine.finish("r", HOUR_NS + 32, generated_tokens=3)
    (part,) = engine.take()
    assert isinstance(part, FinishedPart)
    assert part.prompt_computed_tokens == 10
    assert part.recomputed_tokens == 11
    assert part.decode_scheduled_tokens == 2
    assert (part.gpu_ns, part.gpu_prefill_ns, part.gpu_recompute_ns) == (32, 10, 11)


def test_idle_engine_speaks_once_an_hour_and_busy_one_every_few_seconds() -> None:
    engine = meter(gpus=1)
    engine.started(HOUR_NS)
    engine.advance(HOUR_NS + 2 * NS_PER_HOUR)
    assert [one.end_ns - HOUR_NS for one in intervals(engine)] == [NS_PER_HOUR, 2 * NS_PER_HOUR]
    at = HOUR_NS + 2 * NS_PER_HOUR + 8 * NS_PER_S
    engine.add("r", at, prompt_tokens=1, admitted_ms=at // 1_000_000)
    engine.scheduled(at, ["r"], one())
    engine.advance(at + 11 * NS_PER_S)
    ends = [one.end_ns for one in intervals(engine)]
    assert ends == [at, at + 5 * NS_PER_S, at + 10 * NS_PER_S]


def test_interval_is_cut_at_the_hour_in_the_middle_of_a_step() -> None:
    start_ns = HOUR_NS + NS_PER_HOUR - NS_PER_S
    engine = meter(gpus=2, start_ns=start_ns, cap_ns=10 * NS_PER_S)
    engine.add("r", start_ns, prompt_tokens=1, admitted_ms=start_ns // 1_000_000)
    engine.scheduled(start_ns, ["r"], one())
    engine.step_done(start_ns + 3 * NS_PER_S)
    first, *_ = intervals(engine)
    assert first.end_ns == HOUR_NS + NS_PER_HOUR
    assert first.open_step_end_ns == 2 * NS_PER_S
    assert first.attributed_ns == 0
    assert first.oldest_open_ms == start_ns // 1_000_000


def test_zero_token_prompt_takes_part_in_its_step() -> None:
    engine = meter(gpus=1)
    engine.add("r", HOUR_NS, prompt_tokens=0, admitted_ms=0)
    engine.scheduled(HOUR_NS, ["r"], one(0))
    engine.step_done(HOUR_NS + 10)
    engine.finish("r", HOUR_NS + 10, generated_tokens=1)
    (part,) = engine.take()
    assert isinstance(part, FinishedPart)
    assert (part.gpu_ns, part.decode_scheduled_tokens, part.first_token_ns) == (10, 0, HOUR_NS + 10)


def test_more_generated_than_scheduled_stops_the_run() -> None:
    engine = meter()
    engine.add("r", HOUR_NS, prompt_tokens=1, admitted_ms=0)
    with pytest.raises(ConservationError, match="generated=5"):
        engine.finish("r", HOUR_NS, generated_tokens=5)


@pytest.mark.parametrize(
    "report",
    [
        lambda engine: engine.add("open", HOUR_NS, prompt_tokens=1, admitted_ms=0),
        lambda engine: engine.scheduled(HOUR_NS, ["nobody"], one()),
        lambda engine: engine.finish("done", HOUR_NS, generated_tokens=0),
        lambda engine: engine.step_done(HOUR_NS),
    ],
    ids=["added twice", "scheduled unknown", "finished twice", "ended without a step"],
)
def test_impossible_report_is_refused(report: Callable[[EngineMeter], None]) -> None:
    engine = meter()
    for name in ("open", "done"):
        engine.add(name, HOUR_NS, prompt_tokens=1, admitted_ms=0)
    engine.finish("done", HOUR_NS, generated_tokens=0)
    with pytest.raises(ConservationError):
        report(engine)
