"""Attribution stays within 5% of the Shapley value per class of traffic, on seeded mixes."""

from itertools import permutations

import numpy as np
import pytest

from bench.attribution import DEFAULT, TOLERANCE_PERCENT, MixResult, compare, worst_percent
from bench.attribution_mixes import MIXES, Mix, run_mix
from bench.shapley import (
    StepCosts,
    always_reading,
    by_permutations,
    exact,
    shapley,
    step_costs,
)
from inference.attribution import StepWork
from inference.simulate.catalogue import CATALOGUE

PROFILE = CATALOGUE["llama-3.1-8b"].profile
MIXED = StepWork(1, [3_000, 250, 40, 1, 1, 1], [0, 9_000, 0, 30_000, 700, 8_000])
DECODING = StepWork(3, [3, 3, 3, 3], [30_000, 700, 8_000, 10])


def compared(mix: Mix) -> MixResult:
    return compare(run_mix(mix.scaled(30), 7), pairs=16, seed=7)


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_every_class_is_within_the_tolerance_of_its_shapley_value(mix: Mix) -> None:
    result = compared(mix)
    assert sum(one.requests for one in result.classes.values()) == len(
        run_mix(mix.scaled(30), 7).wall_ns
    )
    assert max(one.standard_error_percent() for one in result.classes.values()) < 0.5
    assert worst_percent([result], DEFAULT) <= TOLERANCE_PERCENT


def test_equal_and_token_share_are_not() -> None:
    results = [compared(mix) for mix in MIXES]
    for model in ("equal.1", "token_share.1"):
        assert worst_percent(results, model) > 4 * TOLERANCE_PERCENT, model


def test_the_first_fixed_marginal_is_not_where_prompts_crowd_out_decoding() -> None:
    (crowded,) = [mix for mix in MIXES if "cannot keep up" in mix.name]
    result = compare(run_mix(crowded, 7), pairs=16, seed=7)
    assert worst_percent([result], "fixed_marginal.1") > TOLERANCE_PERCENT
    assert worst_percent([result], DEFAULT) <= TOLERANCE_PERCENT


def test_the_same_seed_gives_the_same_figures() -> None:
    first, again = compared(MIXES[0]), compared(MIXES[0])
    assert first.classes == again.classes


def from_the_definition(costs: StepCosts) -> list[float]:
    """The mean over all orders of what each request adds."""
    value = np.zeros(len(costs.reads_s))
    orders = list(permutations(range(len(value))))
    for order in orders:
        before = 0.0
        for place, one in enumerate(order):
            group = list(order[: place + 1])
            members = costs._replace(
                reads_s=costs.reads_s[group], computes_s=costs.computes_s[group]
            )
            value[one] += members.total_s() - before
            before = members.total_s()
    return list(value / len(orders))


@pytest.mark.parametrize("work", [MIXED, DECODING])
def test_exact_value_is_the_definition(work: StepWork) -> None:
    costs = step_costs(PROFILE, work)
    assert list(exact(costs)) == pytest.approx(from_the_definition(costs), rel=1e-9)


def test_value_of_a_step_that_no_group_can_bind_by_arithmetic_is_closed() -> None:
    costs = step_costs(PROFILE, DECODING)
    assert always_reading(costs)
    assert not always_reading(step_costs(PROFILE, MIXED))
    found = shapley(costs, pairs=1, dice=np.random.default_rng(1))
    assert found.way == "closed form"
    assert list(found.rows_s[0]) == pytest.approx(list(exact(costs)), rel=1e-9)


def test_permutations_come_to_the_exact_value_within_their_standard_error() -> None:
    costs = step_costs(PROFILE, MIXED)
    rows = by_permutations(costs, 4_000, np.random.default_rng(3))
    assert list(rows.sum(axis=1)) == pytest.approx([costs.total_s()] * 4_000, rel=1e-9)
    error = rows.std(axis=0, ddof=1) / 4_000**0.5
    assert (abs(rows.mean(axis=0) - exact(costs)) < 4 * error + 1e-12).all()
