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

from inference.attribution import EngineProfile, attention_pairs, kv_tokens_read
from inference.engine_meter import EngineMeter
from inference.simulate.plan import PlannedRequest
from schemas.units import NS_PER_MS


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


class _Running:
    """A request in the engine. It samples a token when `computed` reaches `needed`."""

    __slots__ = ("computed", "generated", "needed", "planned", "prompt", "stop_at")

    def __init__(self, planned: PlannedRequest) -> None:
        arrival = planned.arrival
        self.planned = planned
        self.prompt = arrival.context_tokens
        self.stop_at = arrival.stop_at
        self.computed = arrival.cached_tokens
        self.needed = arrival.context_tokens
        self.generated = 0


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
        self._limits = limits
        self._requests = requests
        self._arrived = 0
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._kv_tokens = 0

    def run(self) -> Iterator[PlannedRequest | None]:
        """Serve everything. The meter's output is due whenever this yields.

        Yields:
            A request that was refused at the door, right after the meter learned its time; else
            None, after every step.
        """
        now_ns = 0
        while True:
            yield from self._arrivals(now_ns)
            if not self._running and not self._waiting:
                if self._arrived == len(self._requests):
                    return
                now_ns = max(now_ns, self._requests[self._arrived].admitted_ns)
                continue
            self._admit()
            launch_ns = now_ns + self._limits.schedule_ns
            yield from self._arrivals(launch_ns)
            if self._all_decode():
                passes = self._passes(launch_ns)
                now_ns = launch_ns + self._decode_ns(passes)
                step = [(one.planned.id, passes, one.computed) for one in self._running]
                chunks: Sequence[int] = [passes] * len(step)
            else:
                passes = 1
                chunks = self._chunks(launch_ns)
                now_ns = launch_ns + self._mixed_ns(chunks)
                step = [
                    (one.planned.id, chunk, one.computed)
                    for one, chunk in zip(self._running, chunks, strict=True)
                    if chunk or one.computed == one.needed
                ]
            self._meter.scheduled(launch_ns, step, passes=passes)
            yield from self._arrivals(now_ns)
            self._meter.step_done(now_ns)
            self._results(chunks, passes, now_ns)
            yield None

    def _arrivals(self, until_ns: int) -> Iterator[PlannedRequest]:
        """Everyone who came by then enters the engine, or is turned away at its door."""
        requests = self._requests
        while self._arrived < len(requests):
            planned = requests[self._arrived]
            if planned.admitted_ns > until_ns:
                return
            self._arrived += 1
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
                self._waiting.append(_Running(planned))

    def _admit(self) -> None:
        capacity = self._limits.kv_capacity_tokens
        while self._waiting and len(self._running) < self._limits.running_max:
            # What is still to be computed of the running ones is spoken for.
            spoken_for = sum(max(one.needed, one.computed) for one in self._running)
            if self._running and spoken_for + self._waiting[0].needed > capacity:
                return
            one = self._waiting.popleft()
            self._running.append(one)
            self._kv_tokens += one.computed

    def _all_decode(self) -> bool:
        return all(one.needed - one.computed == 1 for one in self._running)

    def _fits(self, more_tokens: int) -> bool:
        """Whether the cache can grow by that; one request alone may be larger than it."""
        room = self._limits.kv_capacity_tokens - self._kv_tokens
        return more_tokens <= room or len(self._running) == 1

    def _preempt_youngest(self, now_ns: int) -> None:
        one = self._running.pop()
        self._meter.preempted(one.planned.id, now_ns, computed=one.computed)
        self._kv_tokens -= one.computed
        one.computed = 0
        self._waiting.appendleft(one)

    def _passes(self, launch_ns: int) -> int:
        """How many alike passes lie ahead, after making room for at least one."""
        while not self._fits(len(self._running)):
            self._preempt_youngest(launch_ns)
        one_ns = self._decode_ns(1)
        count = len(self._running)
        passes = min([one.stop_at - one.generated for one in self._running])
        passes = min(passes, self._limits.run_ns_max // one_ns)
        if count > 1:
            passes = min(passes, (self._limits.kv_capacity_tokens - self._kv_tokens) // count)
        if not self._waiting and self._arrived < len(self._requests):
            gap_ns = self._requests[self._arrived].admitted_ns - launch_ns
            passes = min(passes, gap_ns // one_ns + 1)
        return max(passes, 1)

    def _decode_ns(self, passes: int) -> int:
        """Time of `passes` passes in which every running request computes one token each."""
        count = len(self._running)
        grown = passes * (passes + 1) // 2
        pairs = passes * self._kv_tokens + count * grown
        return self._step_ns(passes, pairs, passes * count, pairs)

    def _chunks(self, launch_ns: int) -> list[int]:
        """Tokens per running request of one pass, after making room for them."""
        chunks = self._budgeted()
        while not self._fits(sum(chunks)):
            self._preempt_youngest(launch_ns)
            chunks = self._budgeted()
        return chunks

    def _budgeted(self) -> list[int]:
        """Who decodes goes first, what is left of the budget goes to prompts in their order."""
        left = self._limits.step_tokens_max
        left -= sum(one.needed - one.computed == 1 for one in self._running)
        chunks: list[int] = []
        for one in self._running:
            todo = one.needed - one.computed
            chunk = todo if todo <= 1 else min(todo, max(left, 0))
            if todo > 1:
                left -= chunk
            chunks.append(chunk)
        return chunks

    def _mixed_ns(self, chunks: Sequence[int]) -> int:
        kv = pairs = 0
        for one, chunk in zip(self._running, chunks, strict=True):
            kv += kv_tokens_read(1, chunk, one.computed)
            pairs += attention_pairs(chunk, one.computed)
        return self._step_ns(1, kv, sum(chunks), pairs)

    def _step_ns(self, passes: int, kv_tokens: int, tokens: int, pairs: int) -> int:
        profile = self._profile
        moved = passes * profile.weight_bytes + kv_tokens * profile.kv_bytes_per_token
        flops = tokens * profile.flops_per_token + pairs * profile.attention_flops
        roofline_ns = max(profile.read_ns(moved), profile.compute_ns(flops))
        return roofline_ns + passes * profile.pass_overhead_ns + 1

    def _results(self, chunks: Sequence[int], passes: int, now_ns: int) -> None:
        """Advance everyone by what was computed, and let go of who is done."""
        done: list[_Running] = []
        for one, chunk in zip(self._running, chunks, strict=True):
            one.computed += chunk
            self._kv_tokens += chunk
            if one.computed < one.needed:
                continue
            sampled = min(passes, one.stop_at - one.generated)
            one.generated += sampled
            one.needed = one.prompt + one.generated
            if one.generated >= one.stop_at:
                done.append(one)
        for one in done:
            self._running.remove(one)
            self._kv_tokens -= one.computed
            self._meter.finish(one.planned.id, now_ns, generated_tokens=one.generated)
