"""The time ledger of one engine: where every GPU-nanosecond went, and to which request. Pure.

Whoever drives an engine (the simulator, or the hook in vLLM's scheduler) reports what happens and
when; the meter answers with finished parts and intervals, in the order in which they must be
written. All times are Unix nanoseconds of one clock. A time before the latest one counts as the
latest one: a clock that steps back can shift time between requests, but not create or lose any.

The time line of one engine (a group of `gpus` GPUs that step together):
    startup   from construction to `started`
    idle      no unfinished request, no step in flight
    open step from max(launch, end of the step before) of the oldest step in flight until its
              results; steps in flight end in the order of their launch. When it ends it becomes
        attributed  split over its requests by `inference.attribution`, up to the cap
        stall       what one step took above the cap: compilation, paging; the operator's cost
        overhead    all of it, for a step without requests
    overhead  anything else: unfinished requests, but nothing on the GPU

Invariants, for any sequence of calls, in every interval:
    owned = attributed + stall + idle + overhead + startup + open_step_end - open_step_start
    sum(gpu_ns of parts with an ordinal in (start, end]) + in_flight_end - in_flight_start
        = attributed
and in every part (law 3):
    scheduled = prompt_computed + recomputed + decode_scheduled
    decode_scheduled = max(generated - 1, 0) + drafts_rejected + discarded
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from inference.attribution import AttributionModel, EngineProfile, StepWork, attribute
from schemas.errors import ConservationError
from schemas.units import INT64_MAX, NS_PER_HOUR, NS_PER_MS


class FinishedPart(NamedTuple):
    """The final account of one engine request; nothing is added to it any more.

    `first_scheduled_ns` and `first_token_ns` are 0 where it never came to that.
    """

    request: str
    ordinal: int
    gpu_ns: int
    gpu_prefill_ns: int
    gpu_recompute_ns: int
    generated_tokens: int
    prompt_computed_tokens: int
    recomputed_tokens: int
    decode_scheduled_tokens: int
    drafts_rejected_tokens: int
    discarded_tokens: int
    added_ns: int
    first_scheduled_ns: int
    first_token_ns: int
    finished_ns: int


class Interval(NamedTuple):
    """Where the engine's time went in `[start_ns, end_ns)`; GPU-ns, except the two bounds.

    `oldest_open_ms` is the earliest admission among the requests open at the end, or the end.
    """

    start_ns: int
    end_ns: int
    owned_ns: int
    attributed_ns: int
    stall_ns: int
    idle_ns: int
    overhead_ns: int
    startup_ns: int
    open_step_start_ns: int
    open_step_end_ns: int
    in_flight_start_ns: int
    in_flight_end_ns: int
    ordinal_start: int
    ordinal_end: int
    tokens_scheduled: int
    steps: int
    running_requests: int
    waiting_requests: int
    oldest_open_ms: int


class OpenRequest(NamedTuple):
    """A request that is not final yet, as far as it is known; for recovery after a crash.

    `generated_tokens` is -1 while it has not finished.
    """

    request: str
    gpu_ns: int
    gpu_prefill_ns: int
    gpu_recompute_ns: int
    prompt_computed_tokens: int
    recomputed_tokens: int
    decode_scheduled_tokens: int
    drafts_rejected_tokens: int
    generated_tokens: int
    added_ns: int
    first_scheduled_ns: int
    first_token_ns: int


class _Open:
    """A request that the meter still counts on.

    From `decode_from` computed tokens on, every token of it is a decoding one: known once its
    prompt is through, and unknown again after a preemption.
    """

    __slots__ = (
        "added_ns",
        "admitted_ms",
        "decode",
        "decode_from",
        "drafts_rejected",
        "finished_ns",
        "first_scheduled_ns",
        "first_token_ns",
        "generated",
        "gpu_ns",
        "last_step",
        "prefill_ns",
        "prompt",
        "prompt_computed",
        "recompute_ns",
        "recompute_until",
        "recomputed",
        "running",
    )

    def __init__(self, prompt: int, admitted_ms: int, added_ns: int) -> None:
        self.prompt = prompt
        self.admitted_ms = admitted_ms
        self.added_ns = added_ns
        self.gpu_ns = self.prefill_ns = self.recompute_ns = 0
        self.prompt_computed = self.recomputed = self.decode = 0
        self.recompute_until = self.last_step = 0
        self.first_scheduled_ns = self.first_token_ns = self.finished_ns = 0
        self.generated = -1
        self.drafts_rejected = 0
        self.running = False
        self.decode_from = INT64_MAX

    def begin(self, tokens: int, computed: int, now_ns: int) -> tuple[int, int]:
        """Account for tokens that may be prompt or recomputed ones; how many were which."""
        recomputed = min(tokens, max(self.recompute_until - computed, 0))
        prefill = min(tokens - recomputed, max(self.prompt - computed - recomputed, 0))
        self.recomputed += recomputed
        self.prompt_computed += prefill
        self.decode += tokens - recomputed - prefill
        self.running = True
        if not self.first_scheduled_ns:
            self.first_scheduled_ns = now_ns
        return prefill, recomputed


class _Step:
    """A step in flight. `told` is what is more than decoding: (index, prefill, recomputed)."""

    __slots__ = ("opens", "requests", "told", "work")

    def __init__(self, requests: Sequence[str], work: StepWork, opens: list[_Open]) -> None:
        self.requests = requests
        self.work = work
        self.opens = opens
        self.told: list[tuple[int, int, int]] = []


class EngineMeter:
    """The ledger of one boot of one engine. Not thread-safe: one caller at a time.

    Args:
        gpus: GPUs that the engine holds.
        profile: What the model costs on them, for the attribution.
        model: The attribution model.
        start_ns: When the GPUs were taken.
        stall_cap_ns: What one step may take per GPU before the rest is stall.
        interval_ns: Longest interval while the engine is not idle.
    """

    def __init__(
        self,
        *,
        gpus: int,
        profile: EngineProfile,
        model: AttributionModel,
        start_ns: int,
        stall_cap_ns: int,
        interval_ns: int,
    ) -> None:
        self._gpus = gpus
        self._profile = profile
        self._model = model
        self._stall_cap_ns = stall_cap_ns
        self._interval_ns = interval_ns
        self._mark_ns = self._start_ns = self._latest_ns = start_ns
        self._up = False
        self._open: dict[str, _Open] = {}
        self._unfinished = self._finished_in_flight = 0
        self._launched = self._ended = 0
        self._steps: deque[_Step] = deque()
        self._ordinal = self._ordinal_start = 0
        self._in_flight_ns = self._in_flight_start_ns = 0
        self._open_step_start_ns = 0
        self._attributed_ns = self._stall_ns = self._idle_ns = 0
        self._overhead_ns = self._startup_ns = 0
        self._tokens = self._steps_done = 0
        self._out: list[FinishedPart | Interval] = []
        self._cut_ns = 0
        self._plan_cut()

    # What the driver reports.

    def started(self, now_ns: int) -> None:
        """The engine can take requests from now on."""
        self._advance(now_ns)
        self._up = True
        self._plan_cut()

    def add(self, request: str, now_ns: int, *, prompt_tokens: int, admitted_ms: int) -> None:
        """A request entered the engine; its id must not be open already.

        Raises:
            ConservationError: If it is open.
        """
        now_ns = self._advance(now_ns)
        if request in self._open:
            raise ConservationError(f"request {request} was added twice")
        self._open[request] = _Open(prompt_tokens, admitted_ms, now_ns)
        self._unfinished += 1
        if self._unfinished == 1 and not self._steps:
            self._up = True
            self._plan_cut()

    def scheduled(self, now_ns: int, requests: Sequence[str], work: StepWork) -> None:
        """A step was launched, possibly an empty one, possibly while others are in flight.

        Args:
            now_ns: When.
            requests: Who is in it, by id; each at most once.
            work: What they compute in it, column by column.

        Raises:
            ConservationError: If one of them is not open.
        """
        now_ns = self._advance(now_ns)
        try:
            opens = [self._open[request] for request in requests]
        except KeyError as error:
            raise ConservationError(f"request {error} is in a step but was not added") from error
        step = _Step(requests, work, opens)
        self._launched += 1
        columns = zip(opens, work.tokens, work.computed, strict=True)
        for index, (one, tokens, computed) in enumerate(columns):
            one.last_step = self._launched
            if computed >= one.decode_from:
                one.decode += tokens
            else:
                prefill, recomputed = one.begin(tokens, computed, now_ns)
                step.told.append((index, prefill, recomputed))
        self._steps.append(step)
        if not self._unfinished and len(self._steps) == 1:
            self._plan_cut()

    def step_done(self, now_ns: int) -> None:
        """The results of the oldest step in flight are in.

        Raises:
            ConservationError: If no step is in flight.
        """
        if not self._steps:
            raise ConservationError("a step ended, but none is in flight")
        now_ns = self._advance(now_ns)
        step = self._steps.popleft()
        busy_ns = now_ns - self._mark_ns
        self._mark_ns = now_ns
        self._steps_done += 1
        self._ended += 1
        if step.requests:
            stall_ns = max(busy_ns - self._stall_cap_ns, 0)
            self._stall_ns += self._gpus * stall_ns
            self._attribute(step, self._gpus * (busy_ns - stall_ns), now_ns)
        else:
            self._overhead_ns += self._gpus * busy_ns
        if not self._unfinished and not self._steps:
            self._plan_cut()

    def preempted(self, request: str, now_ns: int, *, computed: int) -> None:
        """A request lost its cache; its first `computed` tokens will be computed again."""
        self._advance(now_ns)
        one = self._open[request]
        one.recompute_until = max(one.recompute_until, computed)
        one.decode_from = INT64_MAX
        one.running = False

    def finish(
        self, request: str, now_ns: int, *, generated_tokens: int, drafts_rejected: int = 0
    ) -> None:
        """A request ended, in whatever way; it is final once no step in flight holds it.

        Raises:
            ConservationError: If it is not open, or was finished before.
        """
        now_ns = self._advance(now_ns)
        one = self._open.get(request)
        if one is None or one.generated >= 0:
            raise ConservationError(f"request {request} is not open, it cannot finish")
        one.generated = generated_tokens
        one.drafts_rejected = drafts_rejected
        one.finished_ns = now_ns
        self._unfinished -= 1
        if one.last_step > self._ended:
            self._finished_in_flight += 1
        else:
            self._make_final(request, one)
        if not self._unfinished and not self._steps:
            self._plan_cut()

    def snapshot(self, now_ns: int) -> None:
        """End the interval now, whatever is going on; nothing if there is nothing to say."""
        now_ns = self._advance(now_ns)
        if now_ns > self._start_ns or self._steps_done or self._ordinal > self._ordinal_start:
            self._cut(now_ns)

    def advance(self, now_ns: int) -> None:
        """Let time pass, so that intervals end while nothing else happens."""
        self._advance(now_ns)

    def take(self) -> list[FinishedPart | Interval]:
        """What became final since the last call, in the order in which it must be written."""
        out, self._out = self._out, []
        return out

    def so_far(self, now_ns: int) -> Interval:
        """The interval as it would be if it ended now; nothing ends."""
        return self._interval(self._advance(now_ns))

    def open_requests(self) -> list[OpenRequest]:
        """Every request that is not final; their `gpu_ns` add up to what is in flight."""
        return [
            OpenRequest(
                request,
                one.gpu_ns,
                one.prefill_ns,
                one.recompute_ns,
                one.prompt_computed,
                one.recomputed,
                one.decode,
                one.drafts_rejected,
                one.generated,
                one.added_ns,
                one.first_scheduled_ns,
                one.first_token_ns,
            )
            for request, one in self._open.items()
        ]

    # How time is kept.

    def _advance(self, now_ns: int) -> int:
        """Bring the account up to `now_ns`, ending intervals on the way; the time that counts."""
        now_ns = self._latest_ns = max(now_ns, self._latest_ns)
        while now_ns >= self._cut_ns:
            cut_ns = self._cut_ns
            if not self._steps:
                self._pass_time(cut_ns)
            self._cut(cut_ns)
        # An open step owns the time since the mark.
        if not self._steps and now_ns > self._mark_ns:
            self._pass_time(now_ns)
        return now_ns

    def _pass_time(self, now_ns: int) -> None:
        """Account for the time since the mark, in which no step was in flight."""
        span_ns = self._gpus * (now_ns - self._mark_ns)
        if self._unfinished:
            self._overhead_ns += span_ns
        elif self._up:
            self._idle_ns += span_ns
        else:
            self._startup_ns += span_ns
        self._mark_ns = now_ns

    def _plan_cut(self) -> None:
        """When the interval must end: at the hour; while not idle, after `interval_ns` too.

        Where an idle interval is longer than that already, it ends at once, when work arrives.
        """
        hour_end_ns = (self._start_ns // NS_PER_HOUR + 1) * NS_PER_HOUR
        if self._unfinished or self._steps:
            # The open step's beginning may lie behind; an interval never ends in the past.
            due_ns = max(self._start_ns + self._interval_ns, self._mark_ns)
            self._cut_ns = min(hour_end_ns, due_ns)
        else:
            self._cut_ns = hour_end_ns

    def _interval(self, end_ns: int) -> Interval:
        open_step_ns = self._gpus * (end_ns - self._mark_ns) if self._steps else 0
        owned_ns = self._gpus * (end_ns - self._start_ns)
        running = sum(one.running and one.generated < 0 for one in self._open.values())
        return Interval(
            start_ns=self._start_ns,
            end_ns=end_ns,
            owned_ns=owned_ns,
            attributed_ns=self._attributed_ns,
            stall_ns=self._stall_ns,
            idle_ns=self._idle_ns,
            overhead_ns=self._overhead_ns,
            startup_ns=self._startup_ns,
            open_step_start_ns=self._open_step_start_ns,
            open_step_end_ns=open_step_ns,
            in_flight_start_ns=self._in_flight_start_ns,
            in_flight_end_ns=self._in_flight_ns,
            ordinal_start=self._ordinal_start,
            ordinal_end=self._ordinal,
            tokens_scheduled=self._tokens,
            steps=self._steps_done,
            running_requests=running,
            waiting_requests=self._unfinished - running,
            oldest_open_ms=min(
                (one.admitted_ms for one in self._open.values()), default=end_ns // NS_PER_MS
            ),
        )

    def _cut(self, end_ns: int) -> None:
        interval = self._interval(end_ns)
        _check(interval)
        self._out.append(interval)
        self._start_ns = end_ns
        self._open_step_start_ns = interval.open_step_end_ns
        self._in_flight_start_ns = self._in_flight_ns
        self._ordinal_start = self._ordinal
        self._attributed_ns = self._stall_ns = self._idle_ns = 0
        self._overhead_ns = self._startup_ns = 0
        self._tokens = self._steps_done = 0
        self._plan_cut()

    def _attribute(self, step: _Step, total_ns: int, now_ns: int) -> None:
        self._attributed_ns += total_ns
        self._in_flight_ns += total_ns
        work, opens = step.work, step.opens
        self._tokens += sum(work.tokens)
        shares = attribute(self._model, self._profile, self._gpus, total_ns, work, step.requests)
        for one, share in zip(opens, shares, strict=True):
            one.gpu_ns += share
        for index, prefill, recomputed in step.told:
            one, tokens = opens[index], work.tokens[index]
            if prefill:
                one.prefill_ns += shares[index] * prefill // tokens
            if recomputed:
                one.recompute_ns += shares[index] * recomputed // tokens
            if work.computed[index] + tokens >= one.prompt:
                one.decode_from = max(one.prompt, one.recompute_until)
                one.first_token_ns = one.first_token_ns or now_ns
        if self._finished_in_flight:
            self._make_late_ones_final(step)

    def _make_late_ones_final(self, step: _Step) -> None:
        """Who finished while this step was in flight, and is in no other."""
        for request, one in zip(step.requests, step.opens, strict=True):
            if one.generated >= 0 and one.last_step <= self._ended:
                self._finished_in_flight -= 1
                self._make_final(request, one)

    def _make_final(self, request: str, one: _Open) -> None:
        discarded = one.decode - max(one.generated - 1, 0) - one.drafts_rejected
        if discarded < 0:
            raise ConservationError(
                f"request {request}: decode_scheduled={one.decode} cannot have made"
                f" generated={one.generated} and drafts_rejected={one.drafts_rejected}",
            )
        del self._open[request]
        self._ordinal += 1
        self._in_flight_ns -= one.gpu_ns
        self._out.append(
            FinishedPart(
                request,
                self._ordinal,
                one.gpu_ns,
                one.prefill_ns,
                one.recompute_ns,
                one.generated,
                one.prompt_computed,
                one.recomputed,
                one.decode,
                one.drafts_rejected,
                discarded,
                one.added_ns,
                one.first_scheduled_ns,
                one.first_token_ns,
                one.finished_ns,
            )
        )


def _check(interval: Interval) -> None:
    """Stop before an interval that does not add up is written."""
    spent_ns = (
        interval.attributed_ns
        + interval.stall_ns
        + interval.idle_ns
        + interval.overhead_ns
        + interval.startup_ns
        + interval.open_step_end_ns
        - interval.open_step_start_ns
    )
    if interval.owned_ns != spent_ns or interval.in_flight_end_ns < 0:
        raise ConservationError(f"interval does not add up: spent_ns={spent_ns} in {interval}")
