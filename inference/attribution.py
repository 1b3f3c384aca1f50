"""Splits the GPU time of one engine step over the requests in it: exact integers, no clock.

The rule
    A step of an engine of `G` GPUs that was busy for `tau` ns has `T = G * tau` GPU-ns to share.
    Every request in the step gets an integer weight from a versioned `AttributionModel`, and
    `schemas.apportion` splits `T` over the weights (largest remainder, ties by request id), so
    the shares add up to `T` exactly and every language and machine gets the same ones.

`fixed_marginal.1`, the first default; `inference.fixed_marginal` holds the one of today
    Over `p` forward passes request `i` of `n` reads `k_i` bytes of KV cache and needs `f_i` FLOPs;
    the step reads the weights (`W` bytes) once per pass. With bandwidth `B` and peak `P`:

    memory-bound, `(p*W + sum(k)) / B >= sum(f) / P`:
        the weights' reading is shared equally, the rest by KV bytes. The share is
        `(p*W/n + k_i) / (p*W + sum(k))`, as an integer weight `w_i = p*W + n*k_i`.
    compute-bound:
        the time to read the weights, `F = min(T, G * p * floor(W * 10^9 / B))` ns, is shared
        equally, the rest by FLOPs. The share is `F/n + (T-F) * f_i/sum(f)`, as an integer weight
        `w_i = F*sum(f) + n*(T-F)*f_i`.

    Source: the roofline of the formulas in vLLM's `v1/metrics/perf.py`; the choice of this split
    over the others is argued in docs/decisions/0004-attribution.md.

`equal.1` gives everyone the same; `token_share.1` weighs by the tokens in the step. Both are here
to be compared with, and for tenants whose contract says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import add
from typing import NamedTuple, Protocol

from schemas.apportion import apportion
from schemas.errors import SettingsError
from schemas.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """What a model costs on its engine's GPUs; rates are of all the engine's GPUs together.

    `attention_flops` is per (token, token of context it looks at). `pass_overhead_ns` is what a
    forward pass takes on top of its roofline (kernel launches, all-reduce latency).
    """

    weight_bytes: int
    kv_bytes_per_token: int
    flops_per_token: int
    attention_flops: int
    bandwidth_bytes_per_s: int
    peak_flops_per_s: int
    pass_overhead_ns: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low = 0 if field.name in {"attention_flops", "pass_overhead_ns"} else 1
            if value < low:
                raise SettingsError(f"engine profile: {field.name} must be >= {low}, not {value}")

    def read_ns(self, size_bytes: int) -> int:
        """Wall nanoseconds to read that many bytes of GPU memory, rounded down."""
        return size_bytes * NS_PER_S // self.bandwidth_bytes_per_s

    def compute_ns(self, flops: int) -> int:
        """Wall nanoseconds for that many floating point operations, rounded down."""
        return flops * NS_PER_S // self.peak_flops_per_s


class StepWork(NamedTuple):
    """What was in one step, as parallel columns; request `i` had `computed[i]` tokens before it.

    With one pass, request `i` computes `tokens[i]` tokens in it (a prompt chunk, or one token).
    With several (multi-step scheduling) every request computes one token in each pass.
    """

    passes: int
    tokens: Sequence[int]
    computed: Sequence[int]


def kv_tokens_read(passes: int, tokens: int, computed: int) -> int:
    """Tokens of KV cache that one request reads in a step: its context, once per pass."""
    if passes == 1:
        return computed + tokens
    return passes * computed + passes * (passes + 1) // 2


def attention_pairs(tokens: int, computed: int) -> int:
    """(token, context token) pairs of one request in a step: causal, so `n*c + n*(n+1)/2`."""
    return tokens * computed + tokens * (tokens + 1) // 2


def attention_pairs_of(tokens: Sequence[int], reads: Sequence[int]) -> list[int]:
    """`attention_pairs` of every request of one pass, from the `kv_tokens_read` of it."""
    # n*c + n*(n+1)/2, written with r = c + n.
    return [r if n == 1 else n * r - n * (n - 1) // 2 for n, r in zip(tokens, reads, strict=True)]


def reads_and_pairs(step: StepWork) -> tuple[list[int], list[int]]:
    """`kv_tokens_read` and `attention_pairs` of every request; of one pass without the calls."""
    passes, tokens, computed = step
    if passes == 1:
        reads = list(map(add, computed, tokens))
        return reads, attention_pairs_of(tokens, reads)
    both = list(zip(tokens, computed, strict=True))
    return (
        [kv_tokens_read(passes, chunk, before) for chunk, before in both],
        [attention_pairs(chunk, before) for chunk, before in both],
    )


class AttributionModel(Protocol):
    """A versioned way to weigh the requests of a step. Changing a formula means a new version."""

    @property
    def name(self) -> str:
        """Name and version as events carry it, such as `fixed_marginal.1`."""
        ...

    def weights(
        self, profile: EngineProfile, gpus: int, total_ns: int, step: StepWork
    ) -> list[int]:
        """One integer weight per request, zero or more, not all zero."""
        ...


class Line(NamedTuple):
    """Weights that are `base + each * context`, all three zero or more and not all zero."""

    base: int
    each: int
    contexts: Sequence[int]

    def weights(self) -> list[int]:
        """One by one."""
        return [self.base + self.each * context for context in self.contexts]


class Equal:
    """Everyone in the step pays the same."""

    name = "equal.1"

    def weights(
        self, profile: EngineProfile, gpus: int, total_ns: int, step: StepWork
    ) -> list[int]:
        del profile, gpus, total_ns
        return [1] * len(step.tokens)


class TokenShare:
    """By the tokens computed in the step; equally where a step has none."""

    name = "token_share.1"

    def weights(
        self, profile: EngineProfile, gpus: int, total_ns: int, step: StepWork
    ) -> list[int]:
        del profile, gpus, total_ns
        return list(step.tokens) if any(step.tokens) else [1] * len(step.tokens)


class FixedMarginal:
    """The fixed cost of the step equally, the rest by what each request adds; see the module."""

    name = "fixed_marginal.1"

    def weights(
        self, profile: EngineProfile, gpus: int, total_ns: int, step: StepWork
    ) -> list[int]:
        passes, tokens, computed = step
        count = len(tokens)
        kv_bytes = profile.kv_bytes_per_token
        weight_bytes = passes * profile.weight_bytes
        decoding = tokens.count(passes) == count
        reads: list[int] = []
        pairs: list[int] = []
        if decoding:
            # One token per pass each: a token looks at what its pass reads, so pairs are reads.
            grown = passes * (passes + 1) // 2
            all_tokens = passes * count
            all_reads = all_pairs = passes * sum(computed) + count * grown
        else:
            grown = 0
            reads, pairs = reads_and_pairs(step)
            all_tokens, all_reads, all_pairs = sum(tokens), sum(reads), sum(pairs)
        all_flops = all_tokens * profile.flops_per_token + all_pairs * profile.attention_flops
        moved = weight_bytes + all_reads * kv_bytes
        kv_weight = count * kv_bytes
        if moved * profile.peak_flops_per_s >= all_flops * profile.bandwidth_bytes_per_s:
            if decoding:
                base, slope = weight_bytes + kv_weight * grown, kv_weight * passes
                return [base + slope * before for before in computed]
            return [weight_bytes + kv_weight * read for read in reads]
        if decoding:
            pairs = [passes * before + grown for before in computed]
        fixed_ns = min(total_ns, gpus * passes * profile.read_ns(profile.weight_bytes))
        equal_part = fixed_ns * all_flops
        rest = count * (total_ns - fixed_ns)
        per_token, per_pair = rest * profile.flops_per_token, rest * profile.attention_flops
        return [
            equal_part + per_token * chunk + per_pair * pair
            for chunk, pair in zip(tokens, pairs, strict=True)
        ]


def attribute(
    model: AttributionModel,
    profile: EngineProfile,
    gpus: int,
    total_ns: int,
    step: StepWork,
    requests: Sequence[str],
) -> list[int]:
    """GPU-ns per request of one step; they add up to `total_ns` exactly.

    Args:
        model: How to weigh.
        profile: What the model costs on these GPUs.
        gpus: GPUs of the engine.
        total_ns: GPUs times busy wall time, below the stall cap.
        step: What was in the step, at least one request.
        requests: One distinct id per request, the tie key.
    """
    if len(requests) == 1:
        return [total_ns]
    # Of a model most of whose steps have their weights on a line.
    weigh: Callable[[EngineProfile, StepWork], Line | list[int]] | None
    weigh = getattr(model, "weigh", None)
    if weigh is None:
        return split(total_ns, model.weights(profile, gpus, total_ns, step), requests)
    weights = weigh(profile, step)
    if isinstance(weights, Line):
        return split_line(total_ns, weights, requests)
    return split(total_ns, weights, requests)


def split(total: int, weights: Sequence[int], ties: Sequence[str]) -> list[int]:
    """The same parts as `schemas.apportion` in less time; a property test holds it to that.

    It runs once per engine step, where `apportion` runs once per invoice.

    Raises:
        ConservationError: As `apportion` does.
    """
    whole_weight = sum(weights)
    if total <= 0 or whole_weight <= 0 or min(weights) < 0:
        return apportion(total, weights, ties)
    both = [divmod(total * weight, whole_weight) for weight in weights]
    return _round_up_largest(total, both, ties)


def split_line(total: int, line: Line, ties: Sequence[str]) -> list[int]:
    """`split` by the weights of a line, which it need not multiply out.

    Raises:
        ConservationError: If all weights are zero.
    """
    base, each, contexts = line
    whole_weight = len(contexts) * base + each * sum(contexts)
    if total <= 0 or whole_weight <= 0:
        return apportion(total, line.weights(), ties)
    base, each = total * base, total * each
    both = [divmod(base + each * context, whole_weight) for context in contexts]
    return _round_up_largest(total, both, ties)


def _round_up_largest(
    total: int, both: Sequence[tuple[int, int]], ties: Sequence[str]
) -> list[int]:
    """Parts of (rounded down, remainder), one more for as many as it takes to be `total`."""
    parts = [part for part, _ in both]
    left = total - sum(parts)
    if not left:
        return parts
    remainders = [remainder for _, remainder in both]
    # Fewer are left than there are parts, so the largest that gets nothing has a place.
    ranked = sorted(remainders)
    least = ranked[-left]
    if ranked[-left - 1] < least:
        return [part + 1 if remainder >= least else part for part, remainder in both]
    parts = [part + 1 if remainder > least else part for part, remainder in both]
    tied = [index for index, remainder in enumerate(remainders) if remainder == least]
    tied.sort(key=ties.__getitem__)
    for index in tied[: total - sum(parts)]:
        parts[index] += 1
    return parts
