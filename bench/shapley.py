"""The Shapley value of an engine step, by request: exact where it can be, else by permutations.

The game: a coalition of the step's requests costs what the roofline says of a step with them alone,
`max((p*W + sum(k)) / B, sum(f) / P) + p * overhead`, and nothing if it is empty. Floats are fine
here: nobody is charged by this file.

Three ways, by the step:
    closed form   where no coalition can be compute-bound (the requests that add more arithmetic
                  than reading cannot catch up with the weights, all of them together and nobody
                  else): the fixed cost is shared equally and each pays its own reading
    exact         up to `EXACT_MAX` requests: every coalition
    permutations  above: seeded, in pairs of an order and its reverse, which halves the variance or
                  better; the standard error comes from the pairs
"""

from typing import NamedTuple

import numpy as np

from inference.attribution import EngineProfile, StepWork, attention_pairs, kv_tokens_read

EXACT_MAX = 10
Columns = np.ndarray[tuple[int], np.dtype[np.float64]]


class StepCosts(NamedTuple):
    """A step in seconds: its fixed costs, and per request the reading and arithmetic it adds."""

    weights_s: float
    overhead_s: float
    reads_s: Columns
    computes_s: Columns

    def total_s(self) -> float:
        """What the whole step takes."""
        reading_s = self.weights_s + float(self.reads_s.sum())
        return max(reading_s, float(self.computes_s.sum())) + self.overhead_s


class Shapley(NamedTuple):
    """Seconds per request, one row per independent estimate; a single row is exact."""

    rows_s: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    way: str


def step_costs(profile: EngineProfile, work: StepWork) -> StepCosts:
    """The roofline's figures of a step, as `inference.simulate.engine` has them."""
    passes = work.passes
    both = list(zip(work.tokens, work.computed, strict=True))
    reads = [kv_tokens_read(passes, tokens, before) for tokens, before in both]
    flops = [
        tokens * profile.flops_per_token + attention_pairs(tokens, before) * profile.attention_flops
        for tokens, before in both
    ]
    read_rate, compute_rate = profile.bandwidth_bytes_per_s, profile.peak_flops_per_s
    return StepCosts(
        weights_s=passes * profile.weight_bytes / read_rate,
        overhead_s=passes * profile.pass_overhead_ns / 1e9,
        reads_s=np.array(reads, dtype=np.float64) * profile.kv_bytes_per_token / read_rate,
        computes_s=np.array(flops, dtype=np.float64) / compute_rate,
    )


def shapley(costs: StepCosts, *, pairs: int, dice: np.random.Generator) -> Shapley:
    """The Shapley value of every request of a step.

    Args:
        costs: The step.
        pairs: Pairs of permutations, where they are needed.
        dice: Draws them.
    """
    if always_reading(costs):
        fixed_s = (costs.weights_s + costs.overhead_s) / len(costs.reads_s)
        return Shapley((fixed_s + costs.reads_s)[np.newaxis], "closed form")
    if len(costs.reads_s) <= EXACT_MAX:
        return Shapley(exact(costs)[np.newaxis], "exact")
    return Shapley(by_permutations(costs, pairs, dice), "permutations")


def always_reading(costs: StepCosts) -> bool:
    """Whether no coalition whatever is compute-bound."""
    surplus = costs.computes_s - costs.reads_s
    return float(surplus[surplus > 0].sum()) <= costs.weights_s


def exact(costs: StepCosts) -> Columns:
    """From the definition: over all coalitions without it, what each request adds, weighted."""
    count = len(costs.reads_s)
    coalitions = np.arange(1 << count)
    members = (coalitions[:, np.newaxis] >> np.arange(count)) & 1
    reading = costs.weights_s + members @ costs.reads_s
    cost = np.maximum(reading, members @ costs.computes_s) + costs.overhead_s
    cost[0] = 0.0
    sizes = members.sum(axis=1)
    # |S|! (n - |S| - 1)! / n!, for coalitions S without the request.
    weight = np.ones(count)
    for size in range(count):
        weight[size] = 1.0 / count
        for step in range(size):
            weight[size] *= (step + 1) / (count - 1 - step)
    value = np.empty(count)
    for one in range(count):
        without = coalitions[members[:, one] == 0]
        value[one] = (weight[sizes[without]] * (cost[without | 1 << one] - cost[without])).sum()
    return value


def by_permutations(
    costs: StepCosts, pairs: int, dice: np.random.Generator
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """One unbiased estimate per pair of opposite orders."""
    count = len(costs.reads_s)
    orders = np.argsort(dice.random((pairs, count)), axis=1)
    return (_marginals(costs, orders) + _marginals(costs, orders[:, ::-1])) / 2


def _marginals(
    costs: StepCosts, orders: np.ndarray[tuple[int, int], np.dtype[np.int64]]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """What each request adds to those before it, order by order."""
    reading = costs.weights_s + np.cumsum(costs.reads_s[orders], axis=1)
    cost = np.maximum(reading, np.cumsum(costs.computes_s[orders], axis=1)) + costs.overhead_s
    added = np.diff(cost, axis=1, prepend=0.0)
    value = np.empty_like(added)
    np.put_along_axis(value, orders, added, axis=1)
    return value
