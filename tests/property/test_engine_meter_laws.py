"""Laws 2 and 3 on random lives of an engine: time and tokens are conserved, to the last one."""

from hypothesis import given
from hypothesis import strategies as st

from inference.engine_account import FinishedPart, Interval
from schemas.units import NS_PER_HOUR
from tests.support.engine_lives import START_NS, Choice, Life, choices


def lived(choices: list[Choice], gpus: int, model: str) -> Life:
    life = Life(gpus, model)
    life.live_through(choices)
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
