"""`fixed_marginal.2`: a step's fixed cost equally, the rest by what each request adds. Pure.

The roofline says what any group of the step's requests would cost without the others:
    p*W + sum(k) to read, or sum(f) to compute, whichever is longer; + p*overhead
with `k_i` the time to read request `i`'s KV cache, `f_i` that for its arithmetic, `W` the weights',
over `p` passes. The fair share of a request is what it adds, on average over all the orders in
which the requests could have come (the Shapley value). This model takes that average with some
rounding of detail, in time proportional to the batch; `bench.attribution` says how near it comes.

Everyone pays `(p*W + p*overhead) / n`. For the rest, requests are of two kinds:
    calculating   `s_i = f_i - k_i > 0`: it adds more arithmetic than reading, such as a prompt
    reading       all others; together they read `D = sum(k_i - f_i)` longer than they compute
If the calculating ones cannot catch up with the weights, `sum(s_i) <= p*W`, no group is bound by
its arithmetic and everyone pays `k_i`. That is the Shapley value itself, and the common case. Else:

    alpha     the part of all groups that is bound by reading. In a random order, when a share `t`
              of all has come, so has each of the four largest calculating requests with
              probability `t`, a share `t` of the other ones, and `t*D` of the surplus of reading.
              The group is bound by reading while calculating surpluses < p*W + t*D; `alpha` is the
              mean probability of that over the moments t = 1/16, 3/16, ... 15/16.
    reading ones pay `alpha*k_i + (1-alpha)*f_i`: what they add to such groups, and to the others.
    calculating ones pay the rest:
        of a step bound by arithmetic   `f_i` less its part of the reading that theirs hides,
                                        `theta = p*W + alpha*D`, by `min(s_i, theta)`
        of a step bound by reading      `k_i`, and of what the reading ones do not pay, by `s_i`

Times are integers, of bytes where everyone pays `k_i`, else of 1/(bandwidth * peak) s. Rounded down
are the bytes that could be read during the overhead, and the quotients of the calculating ones.

`fixed_marginal.1` asked only what the whole step is bound by, so who decoded beside a large prompt
paid for its arithmetic alone, though it made the prompt's owner wait no less than before: 11% below
the Shapley value for cached prefixes among prompts, and up to 50% in a single step.
"""

from collections.abc import Sequence
from functools import cache
from math import gcd
from operator import add
from typing import NamedTuple, Self

from inference.attribution import (
    EngineProfile,
    Line,
    StepWork,
    attention_pairs_of,
    reads_and_pairs,
)
from schemas.units import NS_PER_S

LARGEST = 4
"""So many calculating requests are taken one by one; the others as a share of their sum."""
MOMENTS = 8
_SIXTEENTHS = 2 * MOMENTS


class _Costs(NamedTuple):
    """What a profile says of a pass, whoever is in it; times in 1/(bandwidth * peak) s.

    Attributes:
        profile: Whose costs these are.
        fixed_bytes: Reading the weights, and the bytes that could be read during the overhead.
        shared_bytes: A common divisor of the former and of a token's KV cache.
        weights: Time to read the weights.
        reading: Time to read a token of context.
        per_token: Time to compute a token, but for its context.
        per_pair: Time to compute a token's look at another.
        few: So many requests with one token per pass read longer, whatever their contexts are.
    """

    profile: EngineProfile
    fixed_bytes: int
    shared_bytes: int
    weights: int
    reading: int
    per_token: int
    per_pair: int
    few: int

    @classmethod
    def of(cls, profile: EngineProfile) -> Self:
        bandwidth, peak = profile.bandwidth_bytes_per_s, profile.peak_flops_per_s
        fixed_bytes = profile.weight_bytes + profile.pass_overhead_ns * bandwidth // NS_PER_S
        weights, per_token = profile.weight_bytes * peak, profile.flops_per_token * bandwidth
        reading = profile.kv_bytes_per_token * peak
        per_pair = profile.attention_flops * bandwidth
        return cls(
            profile,
            fixed_bytes,
            gcd(fixed_bytes, profile.kv_bytes_per_token),
            weights,
            reading,
            per_token,
            per_pair,
            weights // per_token if reading > per_pair else 0,
        )

    def reads_longer(self, passes: int, computed: Sequence[int]) -> bool:
        """Whether no group of requests with one token per pass is bound by its arithmetic."""
        saved = self.reading - self.per_pair
        if saved <= 0:
            return False
        # A token looks at what its pass reads, so pairs are reads, and the surplus of arithmetic
        # falls with the context: nobody has more than one without any.
        ahead = passes * self.per_token - passes * (passes + 1) // 2 * saved
        surplus = len(computed) * ahead
        if surplus > passes * self.weights:
            slope = passes * saved
            longest = ahead // slope
            short = [before for before in computed if before <= longest]
            surplus = len(short) * ahead - slope * sum(short)
        return surplus <= passes * self.weights

    def surely_reads_longer(self, tokens: Sequence[int], ends: Sequence[int]) -> bool:
        """The same for one pass with any tokens; only if it shows without a look at everyone.

        Args:
            tokens: Of each request in the pass.
            ends: Its context behind them.
        """
        saved = self.reading - self.per_pair
        longest = max(tokens)
        ahead = self.per_token * longest - self.reading * ends[tokens.index(longest)]
        if saved <= 0 or ahead > self.weights:
            return False
        chunks = [(n, end) for n, end in zip(tokens, ends, strict=True) if n != 1]
        surplus = (len(tokens) - len(chunks)) * max(self.per_token - saved, 0)
        for n, end in chunks:
            pairs = n * end - n * (n - 1) // 2
            surplus += max(self.per_token * n + self.per_pair * pairs - self.reading * end, 0)
        return surplus <= self.weights


class FixedMarginal2:
    """The fixed cost of the step equally, the rest by what each request adds; see the module."""

    name = "fixed_marginal.2"

    def __init__(self) -> None:
        # Of the last profile, which is the only one of an engine.
        self._costs: _Costs | None = None

    def weights(
        self, profile: EngineProfile, gpus: int, total_ns: int, step: StepWork
    ) -> list[int]:
        """Shares do not depend on how long the step took: the model is about proportions."""
        del gpus, total_ns
        weights = self.weigh(profile, step)
        return weights.weights() if isinstance(weights, Line) else weights

    def weigh(self, profile: EngineProfile, step: StepWork) -> Line | list[int]:
        """The weights; as a line where it shows at once that everyone pays what they read."""
        passes, tokens, computed = step
        costs = self._costs
        if costs is None or costs.profile is not profile:
            costs = self._costs = _Costs.of(profile)
        count = len(tokens)
        # Both are divided by what they share, here and below: smaller numbers are divided faster.
        fixed = costs.fixed_bytes // costs.shared_bytes
        each = count * (profile.kv_bytes_per_token // costs.shared_bytes)
        if tokens.count(passes) == count:
            if count <= costs.few or costs.reads_longer(passes, computed):
                # passes*fixed + each*(passes*computed + passes*(passes+1)/2), times 2/passes
                return Line(2 * fixed + each * (passes + 1), 2 * each, computed)
        elif passes == 1:
            ends = list(map(add, computed, tokens))
            if costs.surely_reads_longer(tokens, ends):
                return Line(fixed, each, ends)
            return _off_line(costs, step, ends, attention_pairs_of(tokens, ends))
        return _off_line(costs, step, *reads_and_pairs(step))


def _off_line(
    costs: _Costs, step: StepWork, reads: Sequence[int], pairs: Sequence[int]
) -> list[int]:
    """The weights of a step some of whose groups may compute longer than they read."""
    profile, passes, tokens = costs.profile, step.passes, step.tokens
    fixed_bytes, weights = passes * costs.fixed_bytes, passes * costs.weights
    reading, per_token, per_pair = costs.reading, costs.per_token, costs.per_pair
    read = [reading * one for one in reads]
    surplus = [
        per_token * chunk + per_pair * pair - less
        for chunk, pair, less in zip(tokens, pairs, read, strict=True)
    ]
    calculating = [one for one in surplus if one > 0]
    if sum(calculating) <= weights:
        each = len(tokens) * profile.kv_bytes_per_token
        return [fixed_bytes + each * one for one in reads]
    return _mixed(fixed_bytes * profile.peak_flops_per_s, weights, read, surplus, calculating)


def _mixed(
    fixed: int,
    weights: int,
    read: Sequence[int],
    surplus: Sequence[int],
    calculating: Sequence[int],
) -> list[int]:
    """Weights of a step that some of its groups, or all of it, compute longer than they read."""
    count = len(read)
    in_all = sum(calculating)
    hidden = in_all - sum(surplus)
    alpha, whole = reading_part(weights, hidden, calculating)
    rest = whole - alpha
    equal = whole * fixed
    if in_all >= weights + hidden:
        theta = whole * weights + alpha * hidden
        most = theta // whole
        credit = [theta if one > most else whole * one for one in calculating]
        of_all, credits_in_all = iter(credit), sum(credit)
        return [
            equal
            + count
            * (
                whole * (one + more) - theta * next(of_all) // credits_in_all
                if more > 0
                else whole * one + rest * more
            )
            for one, more in zip(read, surplus, strict=True)
        ]
    unpaid = rest * hidden
    return [
        equal + count * (whole * one + (unpaid * more // in_all if more > 0 else rest * more))
        for one, more in zip(read, surplus, strict=True)
    ]


def reading_part(weights: int, hidden: int, calculating: Sequence[int]) -> tuple[int, int]:
    """`alpha` as a fraction: how much of all groups is bound by reading.

    Args:
        weights: Time to read the weights.
        hidden: `D`, by how much all reading requests read longer than they compute.
        calculating: Surplus of arithmetic of each calculating request, at least one.
    """
    largest, others = sorted(calculating, reverse=True), 0
    if len(calculating) > LARGEST:
        others = sum(largest[LARGEST:])
        del largest[LARGEST:]
    moments, always, whole = _chances(len(largest))
    slope = hidden - others
    # Most groups are bound by the same at the first moment as at the last.
    soonest, latest = slope, (_SIXTEENTHS - 1) * slope
    if slope < 0:
        soonest, latest = latest, soonest
    lead = _SIXTEENTHS * (largest[0] - weights)
    if lead >= latest and _SIXTEENTHS * (sum(largest) - largest[0] - weights) < soonest:
        # With the largest one, every group computes longer; without it, none does. On average
        # over the moments, which are as far from 0 as from 1, it is there in half of the groups.
        return whole // 2, whole
    # Of every group of the largest: by how much it is ahead of the weights, and how many it has.
    ahead = [(-_SIXTEENTHS * weights, 0)]
    for one in largest:
        ahead += [(so_far + _SIXTEENTHS * one, size + 1) for so_far, size in ahead]
    alpha = 0
    for so_far, size in ahead:
        if so_far < soonest:
            alpha += always[size]
        elif so_far < latest:
            alpha += sum(chance[size] for moment, chance in moments if so_far < moment * slope)
    return alpha, whole


@cache
def _chances(largest: int) -> tuple[list[tuple[int, list[int]]], list[int], int]:
    """Per moment, in sixteenths: the chance that just a given group of each size has come.

    As integers, whose denominator is the third value; the second is their sum over all moments.
    """
    moments = [
        (t, [t**size * (_SIXTEENTHS - t) ** (largest - size) for size in range(largest + 1)])
        for t in range(1, _SIXTEENTHS, 2)
    ]
    always = [sum(chance[size] for _, chance in moments) for size in range(largest + 1)]
    return moments, always, MOMENTS * _SIXTEENTHS**largest
