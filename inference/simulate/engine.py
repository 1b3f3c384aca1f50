"""A model of one continuous-batching engine: what is in each step, and how long it takes. Pure.

It schedules like vLLM does: first come, first served; every running request computes one token a
step, and what is left of the token budget goes to prompt chunks; a request is admitted while its
context fits in the KV cache, and the youngest is preempted when it no longer does. A step takes
what its roofline says. Passes that would be alike (the same requests, one token each, until
somebody arrives or finishes) are taken as one step of several passes, as in multi-step scheduling.

A request that alone is larger than the KV cache still runs, by itself. A request without a prompt
samples its first token from a pass that computes none of its own.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd

from inference.attribution import EngineProfile, StepWork, attention_pairs, kv_tokens_read
from inference.engine_meter import EngineMeter
from inference.simulate.plan import PlannedRequest
from schemas.units import INT64_MAX, NS_PER_MS, NS_PER_S


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How an engine schedules; the defaults are vLLM's, but for the longest run of passes."""

    kv_capacity_tokens: int
    running_max: int = 256
    step_tokens_max: int = 8_192
    schedule_ns: int = 150_000
    """Host time between the results of a step and the launch of the next: overhead."""
    run_ns_max: int = 2_000_000_000
    """Longest run of passes taken as one step; below the stall cap."""


def _ns_per(rate_per_s: int) -> tuple[int, int]:
    """So many ns for so much at that rate, without a common factor: small integers are fast."""
    common = gcd(NS_PER_S, rate_per_s)
    return NS_PER_S // common, rate_per_s // common


class _Prompt:
    """A request whose prompt, or what a preemption made it lose, is not all computed yet.

    It samples a token when `computed` reaches `needed`.
    """

    __slots__ = ("computed", "generated", "needed", "planned")

    def __init__(self, planned: PlannedRequest, computed: int, generated: int) -> None:
        self.planned = planned
        self.computed = computed
        self.generated = generated
        self.needed = planned.arrival.context_tokens + generated


class _Decoding:
    """The requests that compute one token a pass, as columns, oldest first.

    `pass_number` counts the passes so far. Request `i` has `pass_number + offset[i]` tokens
    computed, and generates its last one in pass `last_pass[i]`.
    """

    __slots__ = ("ids", "kv_tokens", "last_pass", "offset", "pass_number", "planned")

    def __init__(self) -> None:
        self.planned: list[PlannedRequest] = []
        self.ids: list[str] = []
        self.offset: list[int] = []
        self.last_pass: list[int] = []
        self.pass_number = 0
        self.kv_tokens = 0

    def append(self, planned: PlannedRequest, computed: int, left: int) -> None:
        """Add one that will generate `left` more tokens, at least one."""
        self.planned.append(planned)
        self.ids.append(planned.id)
        self.offset.append(computed - self.pass_number)
        self.last_pass.append(self.pass_number + left)
        self.kv_tokens += computed

    def pop(self, index: int) -> tuple[PlannedRequest, int, int]:
        """Take one out: it, its computed tokens, and how many it would still generate."""
        self.ids.pop(index)
        computed = self.pass_number + self.offset.pop(index)
        self.kv_tokens -= computed
        return self.planned.pop(index), computed, self.last_pass.pop(index) - self.pass_number

    def computed(self) -> list[int]:
        """Tokens computed so far, per request."""
        so_far = self.pass_number
        return [so_far + offset for offset in self.offset]

    def advance(self, passes: int) -> None:
        """Everyone computed and generated that many tokens."""
        self.pass_number += passes
        self.kv_tokens += passes * len(self.ids)


class SimulatedEngine:
    """One engine serving its requests, reporting to its meter.

    Args:
        meter: What the engine reports to.
        profile: What a step costs.
        limits: How the engine schedules.
        requests: What arrives, by time.
    """

    def __init__(
        self,
        meter: EngineMeter,
        profile: EngineProfile,
        limits: EngineLimits,
        requests: Sequence[PlannedRequest],
    ) -> None:
        self._meter = meter
        self._profile = profile
        self._reading = _ns_per(profile.bandwidth_bytes_per_s)
        self._computing = _ns_per(profile.peak_flops_per_s)
        self._limits = limits
        self._requests = requests
        self._arrived = 0
        self._next_ns = requests[0].admitted_ns if requests else INT64_MAX
        self._waiting: deque[_Prompt] = deque()
        self._prompts: list[_Prompt] = []
        self._decoding = _Decoding()

    def run(self) -> Iterator[PlannedRequest | None]:
        """Serve everything. The meter's output is due whenever this yields.

        Yields:
            A request that was refused at the door, right after the meter learned its time; else
            None, after a step in which somebody finished.
        """
        now_ns = 0
        schedule_ns, step_done = self._limits.schedule_ns, self._meter.step_done
        while (busy := self._busy()) or self._arrived < len(self._requests):
            if not busy:
                now_ns = max(now_ns, self._next_ns)
            launch_ns = now_ns + schedule_ns
            if self._next_ns <= launch_ns:
                yield from self._arrivals(launch_ns)
                if not self._busy():
                    yield None
                    continue
            passes, chunks, now_ns = self._launch(launch_ns)
            if self._next_ns <= now_ns:
                yield from self._arrivals(now_ns)
            step_done(now_ns)
            if self._results(chunks, passes, now_ns):
                yield None

    def _busy(self) -> bool:
        return bool(self._decoding.ids or self._prompts or self._waiting)

    def _launch(self, launch_ns: int) -> tuple[int, list[int], int]:
        """Launch a step: its passes, the chunks of prompts in it, and when it will end."""
        if self._waiting:
            self._admit()
        if self._prompts:
            chunks = self._chunks(launch_ns)
            return 1, chunks, self._launch_mixed(launch_ns, chunks)
        passes = self._passes(launch_ns)
        decoding = self._decoding
        ids = decoding.ids.copy()
        count = len(ids)
        self._meter.scheduled(
            launch_ns, ids, StepWork(passes, [passes] * count, decoding.computed())
        )
        pairs = passes * decoding.kv_tokens + count * (passes * (passes + 1) // 2)
        return passes, [], launch_ns + self._step_ns(passes, pairs, passes * count, pairs)

    def _arrivals(self, until_ns: int) -> Iterator[PlannedRequest]:
        """Everyone who came by then enters the engine, or is turned away at its door."""
        requests = self._requests
        while self._next_ns <= until_ns:
            planned = requests[self._arrived]
            self._arrived += 1
            more = self._arrived < len(requests)
            self._next_ns = requests[self._arrived].admitted_ns if more else INT64_MAX
            arrival = planned.arrival
            if arrival.outcome == "refused":
                self._meter.advance(planned.admitted_ns)
                yield planned
                continue
            self._meter.add(
                planned.id,
                planned.admitted_ns,
                prompt_tokens=arrival.context_tokens,
                admitted_ms=planned.admitted_ns // NS_PER_MS,
            )
            if arrival.context_tokens == 0 and arrival.stop_at == 0:
                self._meter.finish(planned.id, planned.admitted_ns, generated_tokens=0)
            else:
                self._waiting.append(_Prompt(planned, arrival.cached_tokens, 0))

    def _admit(self) -> None:
        capacity = self._limits.kv_capacity_tokens
        # What is still to be computed of the prompts is spoken for.
        spoken_for = self._decoding.kv_tokens
        for one in self._prompts:
            spoken_for += one.needed
        count = self._count()
        while self._waiting and count < self._limits.running_max:
            spoken_for += self._waiting[0].needed
            if count and spoken_for > capacity:
                return
            self._prompts.append(self._waiting.popleft())
            count += 1

    def _count(self) -> int:
        return len(self._decoding.ids) + len(self._prompts)

    def _fits(self, more_tokens: int) -> bool:
        """Whether the cache can grow by that; one request alone may be larger than it."""
        used = self._decoding.kv_tokens + sum(one.computed for one in self._prompts)
        return used + more_tokens <= self._limits.kv_capacity_tokens or self._count() == 1

    def _preempt_youngest(self, now_ns: int) -> None:
        if self._prompts:
            one = self._prompts.pop()
            computed = one.computed
            one.computed = 0
        else:
            planned, computed, left = self._decoding.pop(-1)
            one = _Prompt(planned, 0, planned.arrival.stop_at - left)
        self._meter.preempted(one.planned.id, now_ns, computed=computed)
        self._waiting.appendleft(one)

    def _passes(self, launch_ns: int) -> int:
        """How many alike passes lie ahead, after making room for at least one."""
        decoding, capacity = self._decoding, self._limits.kv_capacity_tokens
        count = len(decoding.ids)
        while count > 1 and decoding.kv_tokens + count > capacity:
            self._preempt_youngest(launch_ns)
            count -= 1
        horizon_ns = self._limits.run_ns_max
        if not self._waiting and self._next_ns - launch_ns < horizon_ns:
            horizon_ns = self._next_ns - launch_ns
        # Reading bounds a decoding pass unless the batch is huge; a run may end a little late then.
        profile = self._profile
        moved = profile.weight_bytes + decoding.kv_tokens * profile.kv_bytes_per_token
        ns, size = self._reading
        passes = horizon_ns // (moved * ns // size + profile.pass_overhead_ns + 1) + 1
        if count > 1:
            passes = min(passes, (capacity - decoding.kv_tokens) // count)
        left = min(decoding.last_pass) - decoding.pass_number
        return max(min(passes, left), 1)

    def _chunks(self, launch_ns: int) -> list[int]:
        """Tokens per prompt of one pass, in their order, after making room for them.

        Who decodes goes first; prompts share what is left of the budget.
        """
        while True:
            left = max(self._limits.step_tokens_max - len(self._decoding.ids), 1)
            chunks: list[int] = []
            for one in self._prompts:
                chunk = min(one.needed - one.computed, left)
                left -= chunk
                chunks.append(chunk)
            if self._fits(sum(chunks) + len(self._decoding.ids)):
                return chunks
            self._preempt_youngest(launch_ns)

    def _launch_mixed(self, launch_ns: int, chunks: Sequence[int]) -> int:
        """Launch one pass of prompt chunks and everyone who decodes; when it will end."""
        decoding = self._decoding
        ids, computed = decoding.ids.copy(), decoding.computed()
        tokens = [1] * len(ids)
        kv = pairs = decoding.kv_tokens + len(ids)
        for one, chunk in zip(self._prompts, chunks, strict=True):
            before = one.computed
            kv += kv_tokens_read(1, chunk, before)
            pairs += attention_pairs(chunk, before)
            # A prompt that got nothing of the budget is not in the step; an empty one is.
            if chunk or before == one.needed:
                ids.append(one.planned.id)
                computed.append(before)
                tokens.append(chunk)
        self._meter.scheduled(launch_ns, ids, StepWork(1, tokens, computed))
        return launch_ns + self._step_ns(1, kv, sum(tokens), pairs)

    def _step_ns(self, passes: int, kv_tokens: int, tokens: int, pairs: int) -> int:
        profile = self._profile
        moved = passes * profile.weight_bytes + kv_tokens * profile.kv_bytes_per_token
        flops = tokens * profile.flops_per_token + pairs * profile.attention_flops
        ns, size = self._reading
        read_ns = moved * ns // size
        ns, size = self._computing
        compute_ns = flops * ns // size
        # The +1 keeps a step from taking no time at all.
        roofline_ns = read_ns if read_ns > compute_ns else compute_ns
        return roofline_ns + passes * profile.pass_overhead_ns + 1

    def _results(self, chunks: Sequence[int], passes: int, now_ns: int) -> bool:
        """Advance everyone by what was computed; whether somebody finished."""
        decoding = self._decoding
        decoding.advance(passes)
        finished = False
        reached, last_pass = decoding.pass_number, decoding.last_pass
        while reached in last_pass:
            planned, _, _ = decoding.pop(last_pass.index(reached))
            self._meter.finish(planned.id, now_ns, generated_tokens=planned.arrival.stop_at)
            finished = True
        if not self._prompts:
            return finished
        prompts = []
        for one, chunk in zip(self._prompts, chunks, strict=True):
            one.computed += chunk
            if one.computed < one.needed:
                prompts.append(one)
                continue
            stop_at = one.planned.arrival.stop_at
            if one.generated + 1 < stop_at:
                decoding.append(one.planned, one.computed, stop_at - one.generated - 1)
            else:
                self._meter.finish(one.planned.id, now_ns, generated_tokens=stop_at)
                finished = True
        self._prompts = prompts
        return finished
