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

from inference.attribution import AttributionModel, EngineProfile, StepWork, attribute
from inference.engine_account import (
    FinishedPart,
    Interval,
    OpenRequest,
    StepInFlight,
    UnaddedSteps,
    UsedSoFar,
    check_interval,
)
from schemas.errors import ConservationError
from schemas.units import NS_PER_HOUR, NS_PER_MS


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
        self._open: dict[str, OpenRequest] = {}
        self._unfinished = self._finished_in_flight = 0
        self._beginning: set[str] = set()
        self._steps: deque[StepInFlight] = deque()
        # The latest one, while everyone in it is still open.
        self._launched: StepInFlight | None = None
        self._unadded = UnaddedSteps()
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
        self._beginning.add(request)
        self._open[request] = OpenRequest(prompt_tokens, admitted_ms, now_ns)
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
        step = StepInFlight(requests, work, self._opens_of(requests))
        if self._beginning and not self._beginning.isdisjoint(requests):
            self._begin(step, now_ns)
        self._steps.append(step)
        self._launched = step
        if not self._unfinished and len(self._steps) == 1:
            self._plan_cut()

    def step_done(self, now_ns: int) -> None:
        """The results of the oldest step in flight are in.

        Raises:
            ConservationError: If no step is in flight.
        """
        if not self._steps:
            raise ConservationError("a step ended, but none is in flight")
        if self._latest_ns <= now_ns < self._cut_ns:
            self._latest_ns = now_ns
        else:
            now_ns = self._advance(now_ns)
        step = self._steps.popleft()
        busy_ns = now_ns - self._mark_ns
        self._mark_ns = now_ns
        self._steps_done += 1
        if step.requests:
            if busy_ns > self._stall_cap_ns:
                self._stall_ns += self._gpus * (busy_ns - self._stall_cap_ns)
                busy_ns = self._stall_cap_ns
            self._attribute(step, self._gpus * busy_ns, now_ns)
        else:
            self._overhead_ns += self._gpus * busy_ns
        if not self._unfinished and not self._steps:
            self._plan_cut()

    def preempted(self, request: str, now_ns: int, *, computed: int) -> None:
        """A request lost its cache; its first `computed` tokens will be computed again."""
        self._advance(now_ns)
        one = self._open[request]
        one.recompute_until = max(one.recompute_until, computed)
        self._beginning.add(request)
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
        if self._steps and self._is_in_flight(request):
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

    def _opens_of(self, requests: Sequence[str]) -> list[OpenRequest]:
        before = self._launched
        if before is not None and before.requests == requests:
            return before.opens
        try:
            return list(map(self._open.__getitem__, requests))
        except KeyError as error:
            raise ConservationError(f"request {error} is in a step but was not added") from error

    def _begin(self, step: StepInFlight, now_ns: int) -> None:
        """Tell prompt and recomputed tokens from decoding ones, for those that may have both."""
        tokens, computed, beginning = step.work.tokens, step.work.computed, self._beginning
        step.told = [
            (index, *step.opens[index].begin(tokens[index], computed[index], now_ns))
            for index, request in enumerate(step.requests)
            if request in beginning
        ]

    def _is_in_flight(self, request: str) -> bool:
        return any(request in step.requests for step in self._steps)

    def so_far(self, now_ns: int) -> Interval:
        """The interval as it would be if it ended now; nothing ends."""
        return self._interval(self._advance(now_ns))

    def open_requests(self) -> list[UsedSoFar]:
        """Every request that is not final; their `gpu_ns` add up to what is in flight."""
        self._unadded.add()
        return [
            UsedSoFar(
                request,
                one.gpu_ns,
                one.prefill_ns,
                one.recompute_ns,
                one.prompt_computed,
                one.recomputed,
                max(one.decode, 0),
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
        if now_ns < self._latest_ns:
            now_ns = self._latest_ns
        else:
            self._latest_ns = now_ns
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
        check_interval(interval)
        self._out.append(interval)
        self._start_ns = end_ns
        self._open_step_start_ns = interval.open_step_end_ns
        self._in_flight_start_ns = self._in_flight_ns
        self._ordinal_start = self._ordinal
        self._attributed_ns = self._stall_ns = self._idle_ns = 0
        self._overhead_ns = self._startup_ns = 0
        self._tokens = self._steps_done = 0
        self._plan_cut()

    def _attribute(self, step: StepInFlight, total_ns: int, now_ns: int) -> None:
        self._attributed_ns += total_ns
        self._in_flight_ns += total_ns
        work, opens = step.work, step.opens
        tokens = work.tokens
        self._tokens += sum(tokens)
        shares = attribute(self._model, self._profile, self._gpus, total_ns, work, step.requests)
        self._unadded.put(opens, shares, tokens)
        for index, prefill, recomputed in step.told:
            one = opens[index]
            if prefill:
                one.prefill_ns += shares[index] * prefill // tokens[index]
            if recomputed:
                one.recompute_ns += shares[index] * recomputed // tokens[index]
            reached = work.computed[index] + tokens[index]
            if reached >= one.prompt:
                one.first_token_ns = one.first_token_ns or now_ns
                if reached >= one.recompute_until:
                    self._beginning.discard(step.requests[index])
        if self._finished_in_flight:
            self._make_late_ones_final(step)

    def _make_late_ones_final(self, step: StepInFlight) -> None:
        """Who finished while this step was in flight, and is in no other."""
        for request, one in zip(step.requests, step.opens, strict=True):
            if one.generated >= 0 and not self._is_in_flight(request):
                self._finished_in_flight -= 1
                self._make_final(request, one)

    def _make_final(self, request: str, one: OpenRequest) -> None:
        self._unadded.add()
        discarded = one.decode - max(one.generated - 1, 0) - one.drafts_rejected
        if discarded < 0:
            raise ConservationError(
                f"request {request}: decode_scheduled={one.decode} cannot have made"
                f" generated={one.generated} and drafts_rejected={one.drafts_rejected}",
            )
        del self._open[request]
        self._launched = None
        self._beginning.discard(request)
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
