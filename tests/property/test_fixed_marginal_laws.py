"""`fixed_marginal.2` is its formula, adds up, and is the Shapley value where that is simple."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.attribution import EngineProfile, StepWork, attention_pairs, kv_tokens_read
from inference.fixed_marginal import FixedMarginal2
from schemas.units import NS_PER_S

H100 = EngineProfile(
    weight_bytes=16_060_000_000,
    kv_bytes_per_token=131_072,
    flops_per_token=16_060_000_000,
    attention_flops=524_288,
    bandwidth_bytes_per_s=2_680_000_000_000,
    peak_flops_per_s=494_000_000_000_000,
    pass_overhead_ns=400_000,
)
LIGHT = replace(H100, weight_bytes=200_000_000)
"""A few short contexts compute longer than these weights are read."""
decoding = st.tuples(st.just(1), st.integers(1, 40_000))
prompts = st.tuples(st.integers(1, 8_000), st.integers(0, 40_000))
MOMENTS = [Fraction(moment, 16) for moment in range(1, 16, 2)]


def step_of(work: Sequence[tuple[int, int]], passes: int = 1) -> StepWork:
    return StepWork(passes, [tokens for tokens, _ in work], [before for _, before in work])


class Costs:
    """A step's figures in exact nanoseconds, as the module's docstring names them."""

    def __init__(self, step: StepWork, profile: EngineProfile = H100) -> None:
        passes, both = step.passes, list(zip(step.tokens, step.computed, strict=True))
        read_ns = Fraction(NS_PER_S, profile.bandwidth_bytes_per_s)
        flop_ns = Fraction(NS_PER_S, profile.peak_flops_per_s)
        self.weights = passes * profile.weight_bytes * read_ns
        self.overhead = Fraction(passes * profile.pass_overhead_ns)
        self.k = [
            profile.kv_bytes_per_token * kv_tokens_read(passes, *one) * read_ns for one in both
        ]
        self.f = [
            (one[0] * profile.flops_per_token + attention_pairs(*one) * profile.attention_flops)
            * flop_ns
            for one in both
        ]

    def of(self, group: Sequence[int]) -> Fraction:
        if not group:
            return Fraction(0)
        reading = self.weights + sum(self.k[one] for one in group)
        return self.overhead + max(reading, sum(self.f[one] for one in group))


def shapley_by_definition(costs: Costs) -> list[Fraction]:
    """The mean over all orders of what each request adds."""
    everyone = range(len(costs.k))
    orders = list(permutations(everyone))
    value = [Fraction(0)] * len(costs.k)
    for order in orders:
        for place, one in enumerate(order):
            value[one] += costs.of(order[: place + 1]) - costs.of(order[:place])
    return [one / len(orders) for one in value]


def by_the_docstring(costs: Costs) -> list[Fraction]:
    """The model's text, word by word, in exact fractions."""
    surplus = [f - k for f, k in zip(costs.f, costs.k, strict=True)]
    equal = (costs.weights + costs.overhead) / len(surplus)
    calculating = sorted((one for one in surplus if one > 0), reverse=True)
    if sum(calculating) <= costs.weights:
        return [equal + k for k in costs.k]
    hidden = -sum(one for one in surplus if one <= 0)
    alpha = mean_chance(costs.weights, Fraction(hidden), calculating)
    theta = costs.weights + alpha * hidden
    credit = sum(min(one, theta) for one in calculating)
    in_all = sum(calculating)
    shares = []
    for k, f, more in zip(costs.k, costs.f, surplus, strict=True):
        if more <= 0:
            share = alpha * k + (1 - alpha) * f
        elif in_all >= costs.weights + hidden:
            share = f - theta * min(more, theta) / credit
        else:
            share = k + (1 - alpha) * hidden * more / in_all
        shares.append(equal + share)
    return shares


def mean_chance(weights: Fraction, hidden: Fraction, calculating: list[Fraction]) -> Fraction:
    largest, others = calculating[:4], sum(calculating[4:])
    chance = Fraction(0)
    for t in MOMENTS:
        for group in range(1 << len(largest)):
            chosen = [group >> bit & 1 for bit in range(len(largest))]
            likely = Fraction(1)
            for come in chosen:
                likely *= t if come else 1 - t
            come_surplus = sum(one for one, come in zip(largest, chosen, strict=True) if come)
            if come_surplus + t * others < weights + t * hidden:
                chance += likely
    return chance / len(MOMENTS)


def shares_of(step: StepWork, total: Fraction, profile: EngineProfile = H100) -> list[Fraction]:
    weights = FixedMarginal2().weights(profile, 1, 0, step)
    assert min(weights) >= 0
    return [total * weight / sum(weights) for weight in weights]


def close(found: Sequence[Fraction], expected: Sequence[Fraction]) -> bool:
    """Equal but for quotients rounded down, in units far below a nanosecond."""
    pairs = zip(found, expected, strict=True)
    return all(abs(one - other) < Fraction(1, 1_000) for one, other in pairs)


@given(st.lists(decoding | prompts, min_size=1, max_size=12))
def test_weights_are_the_formula_of_the_docstring(work: list[tuple[int, int]]) -> None:
    step = step_of(work)
    costs = Costs(step)
    expected = by_the_docstring(costs)
    assert abs(sum(expected) - costs.of(range(len(work)))) == 0
    assert close(shares_of(step, sum(expected, Fraction(0))), expected)


@given(st.lists(decoding | prompts, min_size=1, max_size=12))
def test_weights_are_the_formula_where_decoding_may_be_bound_by_arithmetic(
    work: list[tuple[int, int]],
) -> None:
    step = step_of(work)
    expected = by_the_docstring(Costs(step, LIGHT))
    assert close(shares_of(step, sum(expected, Fraction(0)), LIGHT), expected)


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=12), st.integers(2, 500))
def test_weights_of_several_passes_are_the_formula_too(computed: list[int], passes: int) -> None:
    step = step_of([(passes, before) for before in computed], passes)
    expected = by_the_docstring(Costs(step))
    assert close(shares_of(step, sum(expected, Fraction(0))), expected)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40_000)), min_size=1, max_size=5))
def test_shares_are_the_shapley_value_where_no_group_is_bound_by_arithmetic(
    work: list[tuple[int, int]],
) -> None:
    step = step_of(work)
    expected = shapley_by_definition(Costs(step))
    assert close(shares_of(step, sum(expected, Fraction(0))), expected)


@settings(max_examples=30)
@given(
    st.tuples(st.integers(600, 8_000), st.integers(0, 40_000)),
    st.integers(500, 30_000),
    st.integers(3, 4),
)
def test_shares_beside_one_prompt_are_within_five_percent_of_the_shapley_value(
    prompt: tuple[int, int], context: int, count: int
) -> None:
    step = step_of([prompt] + [(1, context)] * count)
    expected = shapley_by_definition(Costs(step))
    found = shares_of(step, sum(expected, Fraction(0)))
    off = [abs(one / other - 1) for one, other in zip(found, expected, strict=True)]
    assert max(off) < Fraction(5, 100)
