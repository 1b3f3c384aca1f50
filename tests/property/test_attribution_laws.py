"""Attribution conserves every nanosecond, and the fast split is the shared one."""

from hypothesis import given
from hypothesis import strategies as st

from inference.attribution import (
    AttributionModel,
    EngineProfile,
    FixedMarginal,
    Line,
    StepWork,
    attribute,
    split,
    split_line,
)
from inference.attribution_models import MODELS
from schemas.apportion import apportion
from schemas.errors import ConservationError

profiles = st.builds(
    EngineProfile,
    weight_bytes=st.integers(1, 10**12),
    kv_bytes_per_token=st.integers(1, 10**7),
    flops_per_token=st.integers(1, 10**13),
    attention_flops=st.integers(0, 10**8),
    bandwidth_bytes_per_s=st.integers(10**9, 10**14),
    peak_flops_per_s=st.integers(10**9, 10**17),
    pass_overhead_ns=st.integers(0, 10**7),
)
models = st.sampled_from(list(MODELS.values()))
sizes = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 200_000)), min_size=1, max_size=12
)
ids = [f"request-{number:02d}" for number in range(40)]


@st.composite
def steps(draw: st.DrawFn) -> StepWork:
    """A step of one pass with chunks, or of several passes with one token each."""
    work = draw(sizes)
    passes = draw(st.integers(1, 300))
    computed = [before for _, before in work]
    if passes > 1:
        return StepWork(passes, [passes] * len(work), computed)
    return StepWork(1, [tokens for tokens, _ in work], computed)


@given(models, profiles, st.integers(1, 16), st.integers(0, 10**13), steps())
def test_shares_of_a_step_add_up_to_its_time(
    model: AttributionModel, profile: EngineProfile, gpus: int, total_ns: int, step: StepWork
) -> None:
    requests = ids[: len(step.tokens)]
    shares = attribute(model, profile, gpus, total_ns, step, requests)
    assert sum(shares) == total_ns
    assert min(shares) >= 0
    assert len(shares) == len(requests)


@given(models, profiles, st.integers(1, 8), st.integers(1, 10**12), steps(), st.randoms())
def test_shares_do_not_depend_on_the_order_of_the_requests(
    model: AttributionModel,
    profile: EngineProfile,
    gpus: int,
    total_ns: int,
    step: StepWork,
    random: object,
) -> None:
    requests = ids[: len(step.tokens)]
    order = list(range(len(requests)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = StepWork(
        step.passes, [step.tokens[i] for i in order], [step.computed[i] for i in order]
    )
    straight = attribute(model, profile, gpus, total_ns, step, requests)
    mixed = attribute(model, profile, gpus, total_ns, shuffled, [requests[i] for i in order])
    assert [straight[i] for i in order] == mixed


@given(profiles, st.integers(1, 8), st.integers(1, 10**12), steps())
def test_the_weights_of_the_first_fixed_marginal_are_its_formula(
    profile: EngineProfile, gpus: int, total_ns: int, step: StepWork
) -> None:
    count = len(step.tokens)
    pairs = [n * c + n * (n + 1) // 2 for n, c in zip(step.tokens, step.computed, strict=True)]
    passes = step.passes
    reads = (
        pairs if passes > 1 else [c + n for n, c in zip(step.tokens, step.computed, strict=True)]
    )
    kv = [profile.kv_bytes_per_token * read for read in reads]
    flops = [
        n * profile.flops_per_token + pair * profile.attention_flops
        for n, pair in zip(step.tokens, pairs, strict=True)
    ]
    weights = passes * profile.weight_bytes
    memory_bound = (weights + sum(kv)) * profile.peak_flops_per_s >= (
        sum(flops) * profile.bandwidth_bytes_per_s
    )
    fixed_ns = min(total_ns, gpus * passes * profile.read_ns(profile.weight_bytes))
    expected = (
        [weights + count * one for one in kv]
        if memory_bound
        else [fixed_ns * sum(flops) + count * (total_ns - fixed_ns) * one for one in flops]
    )
    assert FixedMarginal().weights(profile, gpus, total_ns, step) == expected


@given(
    st.integers(0, 10**15),
    st.lists(st.integers(0, 10**18) | st.sampled_from([0, 1, 2, 3]), max_size=30),
)
def test_fast_split_is_apportion(total: int, weights: list[int]) -> None:
    ties = ids[: len(weights)][::-1]
    try:
        expected = apportion(total, weights, ties)
    except ConservationError:
        expected = None
    try:
        found = split(total, weights, ties)
    except ConservationError:
        found = None
    assert found == expected


@given(
    total=st.integers(1, 10**13),
    base=st.integers(0, 10**15),
    each=st.integers(0, 10**9),
    contexts=st.lists(st.integers(0, 10**6), min_size=1, max_size=40),
)
def test_split_by_a_line_is_the_split_by_its_weights(
    total: int, base: int, each: int, contexts: list[int]
) -> None:
    line = Line(base, each, contexts)
    ties = ids[: len(contexts)]
    try:
        wanted = split(total, line.weights(), ties)
    except ConservationError:
        wanted = []
    try:
        found = split_line(total, line, ties)
    except ConservationError:
        found = []
    assert found == wanted
