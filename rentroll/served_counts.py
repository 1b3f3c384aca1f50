"""What the clients and the engine of a served model counted, held against what is billed: pure.

A client is told the usage of every request that it waits for. Of a stream that it cut it knows
what it read; what was computed after that, it cannot know. vLLM's own counters miss what its
engine still computed when the client had gone. Both are named, bounded, and then compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Ending = Literal["answered", "cut", "refused"]
INPUT, CACHED, OUTPUT = "input_uncached_tokens", "input_cache_read_tokens", "output_text_tokens"
REASONING = "output_reasoning_tokens"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as its client saw it.

    `request` is the event id that the server named, empty if none. `cached_tokens` are part of
    `input_tokens`, and 0 where a cut stream was not told. `output_tokens` of a cut stream are
    those of the last chunk that was read.
    """

    kind: str
    tenant: str
    request: str
    ending: Ending
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Billed:
    """The same request as the ledger holds it."""

    tenant: str
    outcome: str
    tokens: Mapping[str, int]
    delivered_tokens: int

    @property
    def input_tokens(self) -> int:
        """The whole prompt."""
        return self.tokens.get(INPUT, 0) + self.tokens.get(CACHED, 0)

    @property
    def output_tokens(self) -> int:
        """Text and reasoning."""
        return self.tokens.get(OUTPUT, 0) + self.tokens.get(REASONING, 0)


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """What vLLM itself says, and its engine's own books: see `engine_side`."""

    answered: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    attributed_ns: int


@dataclass(frozen=True, slots=True)
class Side:
    """What one side counted, and what it cannot have counted; together they must be what is billed.

    `gpu_ns` is None for a side that sees no GPU.
    """

    events: int
    tokens: dict[str, int]
    unseen_events: int = 0
    unseen_tokens: dict[str, int] = field(default_factory=dict)
    gpu_ns: int | None = None

    def events_in_all(self) -> int:
        """Requests, those that it cannot see too."""
        return self.events + self.unseen_events

    def tokens_in_all(self, meter: str) -> int:
        """Tokens of a kind, those that it cannot see too."""
        return self.tokens.get(meter, 0) + self.unseen_tokens.get(meter, 0)


def client_side(asked: Sequence[Asked], billed: Mapping[str, Billed]) -> Side:
    """All that clients were told; unseen is what was computed for cut streams beyond it."""
    tokens = {INPUT: 0, CACHED: 0, OUTPUT: 0}
    unseen = {INPUT: 0, CACHED: 0, OUTPUT: 0}
    for one in asked:
        tokens[INPUT] += one.input_tokens - one.cached_tokens
        tokens[CACHED] += one.cached_tokens
        tokens[OUTPUT] += one.output_tokens
        event = billed.get(one.request)
        if one.ending != "cut" or event is None or disagreement(one, event):
            continue
        # Of a prompt, how much was cached is told at the end only.
        cached = event.tokens.get(CACHED, 0) - one.cached_tokens
        unseen[INPUT] -= cached
        unseen[CACHED] += cached
        unseen[OUTPUT] += event.output_tokens - one.output_tokens
    return Side(len(asked), tokens, unseen_tokens=unseen)


def engine_side(counters: EngineCounters, billed: Mapping[str, Billed]) -> Side:
    """VLLM's counters; unseen are requests that never reached it, or that it did not see finish.

    vLLM counts an output token when it has it for a client who is there. What its engine computed
    after that is at most what was billed and never delivered: within that bound it is named, and
    beyond it, it stays a difference.
    """
    refused = sum(one.outcome == "refused" for one in billed.values())
    gone = [one for one in billed.values() if one.outcome == "client_gone"]
    missed = sum(one.output_tokens for one in billed.values()) - counters.generated_tokens
    most = sum(one.output_tokens - one.delivered_tokens for one in gone)
    return Side(
        events=counters.answered,
        tokens={
            INPUT: counters.prompt_tokens - counters.cached_tokens,
            CACHED: counters.cached_tokens,
            OUTPUT: counters.generated_tokens,
        },
        unseen_events=refused + len(gone),
        unseen_tokens={OUTPUT: missed if 0 <= missed <= most else 0},
        gpu_ns=counters.attributed_ns,
    )


def disagreements(asked: Sequence[Asked], billed: Mapping[str, Billed]) -> list[str]:
    """Requests of which client and ledger say different things, and events that nobody asked for.

    Totals can agree by accident; this looks at every single request.
    """
    found = []
    known = {one.request for one in asked}
    for one in asked:
        event = billed.get(one.request)
        why = disagreement(one, event) if event else "no event with the id that its client was told"
        if why:
            found.append(f"{one.tenant} {one.kind} {one.request or '(no id)'}: {why}")
    found += [
        f"{event.tenant} {name}: nobody asked"
        for name, event in billed.items()
        if name not in known
    ]
    return found


def disagreement(one: Asked, event: Billed) -> str:
    """Where a client and the event of its request differ; empty if they agree."""
    if one.tenant != event.tenant:
        return f"billed to {event.tenant}"
    if one.ending == "cut":
        return _disagreement_on_cut(one, event)
    told = (one.input_tokens, one.cached_tokens, one.output_tokens)
    held = (event.input_tokens, event.tokens.get(CACHED, 0), event.output_tokens)
    if told != held:
        return f"its client was told input, cached, output {told}, the ledger holds {held}"
    if (one.ending == "refused") == (event.outcome in {"stop", "length"}):
        return f"its client saw it {one.ending}, the ledger {event.outcome}"
    return ""


def _disagreement_on_cut(one: Asked, event: Billed) -> str:
    """Its client knows the prompt, and what it read; it is billed for at least that."""
    if one.input_tokens and one.input_tokens != event.input_tokens:
        return f"its client was told {one.input_tokens} input tokens, not {event.input_tokens}"
    if event.output_tokens < one.output_tokens:
        return f"its client read {one.output_tokens} output tokens, not {event.output_tokens}"
    return ""
