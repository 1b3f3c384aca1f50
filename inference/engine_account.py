"""What the time ledger of an engine is made of: open requests, steps, finished parts, intervals."""

from collections.abc import Sequence
from typing import NamedTuple

from inference.attribution import StepWork
from schemas.errors import ConservationError

UNADDED_STEPS_MAX = 64
"""Memory that steps may take before they are added to their requests."""


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


class UsedSoFar(NamedTuple):
    """What a request that is not final has used, for recovery after a crash.

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


class OpenRequest:
    """A request that the meter still counts on.

    While it is `_beginning` its tokens may be prompt or recomputed ones; once its prompt is
    through, every token is a decoding one, until a preemption makes it begin again.
    """

    __slots__ = (
        "added_ns",
        "admitted_ms",
        "decode",
        "drafts_rejected",
        "finished_ns",
        "first_scheduled_ns",
        "first_token_ns",
        "generated",
        "gpu_ns",
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
        self.recompute_until = 0
        self.first_scheduled_ns = self.first_token_ns = self.finished_ns = 0
        self.generated = -1
        self.drafts_rejected = 0
        self.running = False

    def begin(self, tokens: int, computed: int, now_ns: int) -> tuple[int, int]:
        """Account for tokens that may be prompt or recomputed ones; how many were which."""
        recomputed = 0
        if computed < self.recompute_until:
            recomputed = min(tokens, self.recompute_until - computed)
            self.recomputed += recomputed
        prefill = min(tokens - recomputed, max(self.prompt - computed - recomputed, 0))
        self.prompt_computed += prefill
        # When the step ends, all its tokens are added to `decode`.
        self.decode -= recomputed + prefill
        self.running = True
        if not self.first_scheduled_ns:
            self.first_scheduled_ns = now_ns
        return prefill, recomputed


class UnaddedSteps:
    """What steps cost that is not yet added to their requests: of several steps it is one addition.

    Most steps hold the same requests as the one before, so of every request the loop of an engine
    then touches nothing; whoever reads `gpu_ns` or `decode` of one calls `add` before.
    """

    __slots__ = ("_opens", "_shares", "_tokens")

    def __init__(self) -> None:
        self._opens: Sequence[OpenRequest] = ()
        self._shares: list[Sequence[int]] = []
        self._tokens: list[Sequence[int]] = []

    def put(
        self, opens: Sequence[OpenRequest], shares: Sequence[int], tokens: Sequence[int]
    ) -> None:
        """A step has cost each of `opens` this share, for these tokens."""
        if opens is not self._opens or len(self._shares) >= UNADDED_STEPS_MAX:
            self.add()
            self._opens = opens
        self._shares.append(shares)
        self._tokens.append(tokens)

    def add(self) -> None:
        """Add what there is."""
        steps = len(self._shares)
        if not steps:
            return
        shares, tokens = self._shares[0], self._tokens[0]
        if steps > 1:
            shares = list(map(sum, zip(*self._shares, strict=True)))
            tokens = list(map(sum, zip(*self._tokens, strict=True)))
        for one, share, computed in zip(self._opens, shares, tokens, strict=True):
            one.gpu_ns += share
            one.decode += computed
        self._shares.clear()
        self._tokens.clear()


class StepInFlight:
    """A step in flight. `told` is what is more than decoding: (index, prefill, recomputed)."""

    __slots__ = ("opens", "requests", "told", "work")

    def __init__(self, requests: Sequence[str], work: StepWork, opens: list[OpenRequest]) -> None:
        self.requests = requests
        self.work = work
        self.opens = opens
        self.told: Sequence[tuple[int, int, int]] = ()


def check_interval(interval: Interval) -> None:
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
