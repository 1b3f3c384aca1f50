"""Composes events out of what a door and engines know of one request: pure.

Who is billed for what
    The client's `usage`, where the server computed one, is what the client was told, so it is what
    counts: with it `n` samples share one prompt, beams that were dropped are not sold, and what
    was generated behind a stop string is `hidden`. Without it (the client left, or the answer was
    cut) the engine's own count does: everything generated, and each prompt once. Chunks that the
    door took for tokens, because the server had no hook, never decide where an engine has counted.
    `input_cache_read` is what the cache held when the first sample of a prompt was scheduled; what
    samples of one request share among themselves is nobody's cached read. Where prefill is split
    from decode, the prompt is the prefilling engine's to tell: its work is no cached read of the
    other. What was generated is the decoding engine's.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from inference.door_records import DoorClose, DoorOpen
from inference.engine_account import FinishedPart, Interval
from inference.engine_records import EngineBoot, MarkRecord, OpenFacts, PartRecord
from inference.wire import Record, RequestWire, format_time, part_of, to_json
from schemas.fields import NAME_PATTERN
from schemas.ids import derived_entropy, uuid7, uuid7_unix_ms
from schemas.units import NS_PER_MS
from schemas.usage import Outcome

ENGINE_DEATH = "engine_death"
UNKNOWN = "unknown"
_SAMPLE = re.compile(r"^\d+_")
_NAME = re.compile(NAME_PATTERN)
_NAME_CHARS = 128
_STATUS_GONE, _STATUS_FAILED = 499, 500
_STATUS_FIRST, _STATUS_LAST = 100, 599


class EnginePart(NamedTuple):
    """A part and the engine that made it."""

    boot: EngineBoot
    record: PartRecord


class PartFinishedWire(msgspec.Struct, frozen=True, kw_only=True):
    """`schemas.usage.EnginePartFinishedData`."""

    engine: str
    ordinal: int
    gpu_ns: int
    generated_tokens: int
    prompt_computed_tokens: int
    recomputed_tokens: int
    decode_scheduled_tokens: int
    drafts_rejected_tokens: int
    discarded_tokens: int
    request: str
    gpu_prefill_ns: int
    gpu_recompute_ns: int
    model: str
    replica: str
    gpu_type: str
    gpus: int
    region: str


class _Tokens(NamedTuple):
    uncached: int = 0
    cached: int = 0
    text: int = 0
    reasoning: int = 0
    generated: int = 0
    delivered: int = 0
    hidden: int = 0


def named(text: str, instead: str = UNKNOWN) -> str:
    """The text where it can be a name in an event; something from a client may not."""
    return text if len(text) <= _NAME_CHARS and _NAME.match(text) else instead


def request_record(
    opened: DoorOpen,
    close: DoorClose | None,
    parts: Sequence[EnginePart],
    any_boot: EngineBoot | None,
) -> Record:
    """The one `request.finished` of a client request; every part that is given is in it.

    Args:
        opened: What the door knew at first.
        close: How it ended at the door; None where the door died.
        parts: From all engines of this host, in the order of engine and ordinal.
        any_boot: Some engine of this host, to name it where the request reached none.
    """
    boot = parts[0].boot if parts else any_boot
    outcome = outcome_of(close, parts)
    tokens = _tokens(close, parts, outcome)
    finals = [part.record.final_unix_ns for part in parts]
    closed_ns = close.closed_unix_ns if close else max(finals, default=opened.admitted_unix_ns)
    queue_ns, first_token_ns, total_ns = _timings(opened, close, parts)
    wire = RequestWire(
        project=opened.project,
        api_key=opened.api_key,
        client_request_id=opened.client_request_id,
        end_user=opened.end_user,
        model=boot.model if boot else named(opened.model),
        adapter=next((one.record.facts.adapter for one in parts if one.record.facts.adapter), ""),
        endpoint=opened.endpoint,
        service_tier=opened.service_tier,
        region=boot.region if boot else UNKNOWN,
        replica=boot.replica if boot else UNKNOWN,
        gpu_type=boot.gpu_type if boot else UNKNOWN,
        gpus=boot.gpus if boot and parts else 0,
        outcome=outcome,
        finish_reason=_finish_reason(close, parts),
        http_status=_status(close, outcome),
        finished_at=format_time(
            max(closed_ns, opened.admitted_unix_ns) // NS_PER_MS,
        ),
        input_uncached_tokens=tokens.uncached,
        input_cache_read_tokens=tokens.cached,
        output_text_tokens=tokens.text,
        output_reasoning_tokens=tokens.reasoning,
        generated_tokens=tokens.generated,
        delivered_tokens=tokens.delivered,
        hidden_tokens=tokens.hidden,
        gpu_ns=sum(one.record.part.gpu_ns for one in parts),
        gpu_prefill_ns=sum(one.record.part.gpu_prefill_ns for one in parts),
        gpu_recompute_ns=sum(one.record.part.gpu_recompute_ns for one in parts),
        attribution_model=boot.attribution_model if boot else UNKNOWN,
        queue_ns=queue_ns,
        first_token_ns=first_token_ns,
        total_ns=total_ns,
        parts=tuple(part_of(one.boot.engine, one.record.part) for one in parts),
    )
    return Record("request.finished", opened.id, opened.tenant, to_json(wire))


def outcome_of(close: DoorClose | None, parts: Sequence[EnginePart]) -> Outcome:
    """How a request ended, from both sides.

    An answer that the client got whole counts as such, even if the engine died right after it. A
    door that died is an error of ours: nobody pays for half an answer that we cut.
    """
    died = any(one.record.facts.finish_reason == ENGINE_DEATH for one in parts)
    if close is None:
        return "engine_death" if died else "error"
    if close.ending == "refused":
        return "error" if parts else "refused"
    if close.ending == "failed":
        lost = len(parts) < close.engine_requests
        return "engine_death" if died or lost else "error"
    if close.ending == "aborted":
        return "engine_death" if died else "client_gone"
    if close.finish_reason in {"length", "abort", "error"}:
        return _FINISHED[close.finish_reason]
    return "stop"


_FINISHED: dict[str, Outcome] = {"length": "length", "abort": "abort", "error": "error"}


def part_record(part: EnginePart, tenant: str) -> Record:
    """A part that comes apart from its request: too late, too many, or no door of this host."""
    boot, record = part
    one = record.part
    request = record.facts.request
    if not request:
        own = derived_entropy(boot.engine, "operator", str(one.ordinal))
        request = uuid7(record.final_unix_ns // NS_PER_MS, own)
    wire = PartFinishedWire(
        engine=boot.engine,
        ordinal=one.ordinal,
        gpu_ns=one.gpu_ns,
        generated_tokens=one.generated_tokens,
        prompt_computed_tokens=one.prompt_computed_tokens,
        recomputed_tokens=one.recomputed_tokens,
        decode_scheduled_tokens=one.decode_scheduled_tokens,
        drafts_rejected_tokens=one.drafts_rejected_tokens,
        discarded_tokens=one.discarded_tokens,
        request=request,
        gpu_prefill_ns=one.gpu_prefill_ns,
        gpu_recompute_ns=one.gpu_recompute_ns,
        model=boot.model,
        replica=boot.replica,
        gpu_type=boot.gpu_type,
        gpus=boot.gpus,
        region=boot.region,
    )
    entropy = derived_entropy(boot.engine, "part", str(one.ordinal))
    event_id = uuid7(uuid7_unix_ms(request), entropy)
    return Record("engine.part.finished", event_id, tenant, to_json(wire))


def parts_of_the_dead(
    boot: EngineBoot, mark: MarkRecord, finished: Sequence[PartRecord], ordinal: int
) -> list[PartRecord]:
    """Parts for what was open at a dead engine's last mark and did not finish after it.

    Args:
        boot: The engine.
        mark: Its last.
        finished: Its parts after the mark.
        ordinal: Its last; the parts go on from there.
    """
    done = {one.facts.engine_request for one in finished}
    left = [one for one in mark.open if one.facts.engine_request not in done]
    return [
        _part_of_the_dead(boot, mark, one, ordinal + number) for number, one in enumerate(left, 1)
    ]


def _part_of_the_dead(
    boot: EngineBoot, mark: MarkRecord, one: OpenFacts, ordinal: int
) -> PartRecord:
    used = one.used
    needed = max(used.generated_tokens - 1, 0) + used.drafts_rejected_tokens
    decode = max(used.decode_scheduled_tokens, needed)
    part = FinishedPart(
        request=used.request,
        ordinal=ordinal,
        gpu_ns=used.gpu_ns,
        gpu_prefill_ns=used.gpu_prefill_ns,
        gpu_recompute_ns=used.gpu_recompute_ns,
        generated_tokens=used.generated_tokens,
        prompt_computed_tokens=used.prompt_computed_tokens,
        recomputed_tokens=used.recomputed_tokens,
        decode_scheduled_tokens=decode,
        drafts_rejected_tokens=used.drafts_rejected_tokens,
        discarded_tokens=decode - needed,
        added_ns=used.added_ns,
        first_scheduled_ns=used.first_scheduled_ns,
        first_token_ns=used.first_token_ns,
        finished_ns=mark.unix_ns,
    )
    cached = max(one.facts.cached_tokens, 0)
    facts = one.facts._replace(finish_reason=ENGINE_DEATH, cached_tokens=cached)
    return PartRecord(boot.engine, mark.unix_ns, facts, part)


def last_interval_of_the_dead(
    boot: EngineBoot, mark: MarkRecord, finished: Sequence[PartRecord], ordinal: int
) -> tuple[Interval, int]:
    """The interval that a dead engine owed, and in it the time that nobody can account for.

    It begins where its last interval ended and ends with the last sign of life. What the mark says
    of it is known; so is what each part that finished after the mark had used since.

    Args:
        boot: The engine.
        mark: Its last.
        finished: Its parts after the mark.
        ordinal: Its last, those of `parts_of_the_dead` included.
    """
    so_far = mark.so_far
    used_then = {one.facts.engine_request: one.used.gpu_ns for one in mark.open}
    since_ns = sum(one.part.gpu_ns - used_then.get(one.facts.engine_request, 0) for one in finished)
    end_ns = max([mark.unix_ns, so_far.end_ns, *(one.final_unix_ns for one in finished)])
    owned_ns = boot.gpus * (end_ns - so_far.start_ns)
    interval = so_far._replace(
        end_ns=end_ns,
        owned_ns=owned_ns,
        attributed_ns=so_far.attributed_ns + since_ns,
        open_step_end_ns=0,
        in_flight_end_ns=0,
        ordinal_end=ordinal,
        running_requests=0,
        waiting_requests=0,
        oldest_open_ms=end_ns // NS_PER_MS,
    )
    known_ns = (
        interval.attributed_ns
        + interval.stall_ns
        + interval.idle_ns
        + interval.overhead_ns
        + interval.startup_ns
        - interval.open_step_start_ns
    )
    return interval, owned_ns - known_ns


def _tokens(close: DoorClose | None, parts: Sequence[EnginePart], outcome: Outcome) -> _Tokens:
    if outcome == "refused":
        return _Tokens()
    prefilling = [one for one in parts if one.boot.prefills_only]
    decoding = [one for one in parts if not one.boot.prefills_only]
    generated = sum(one.record.part.generated_tokens for one in decoding or prefilling)
    prompt, cached = _prompts(prefilling or decoding)
    delivered = close.delivered_tokens if close else 0
    usage = close.usage if close else None
    if usage is not None:
        prompt, output = usage.input_tokens, usage.output_tokens
    else:
        output = _output_without_usage(close, generated, has_parts=bool(parts))
    reasoning = max(usage.reasoning_tokens if usage else 0, close.reasoning_tokens if close else 0)
    cached = min(cached, prompt)
    reasoning = min(reasoning, output)
    return _Tokens(
        uncached=prompt - cached,
        cached=cached,
        text=output - reasoning,
        reasoning=reasoning,
        generated=max(generated, output),
        delivered=min(delivered, output),
        hidden=max(generated - output, 0),
    )


def _output_without_usage(close: DoorClose | None, generated: int, *, has_parts: bool) -> int:
    if close is None or (has_parts and not close.counted):
        return generated
    if close.ending == "finished" and close.delivered_tokens:
        return close.delivered_tokens
    return max(generated, close.delivered_tokens)


def _prompts(parts: Sequence[EnginePart]) -> tuple[int, int]:
    """Tokens of the prompts, each once however many samples it has; and of them the cached."""
    prompt_of: dict[str, int] = {}
    cached_of: dict[str, int] = {}
    for one in parts:
        facts = one.record.facts
        prompt = _SAMPLE.sub("", facts.engine_request)
        prompt_of[prompt] = max(prompt_of.get(prompt, 0), facts.prompt_tokens)
        if one.record.part.first_scheduled_ns:
            known = cached_of.get(prompt, facts.cached_tokens)
            cached_of[prompt] = min(known, facts.cached_tokens)
    return sum(prompt_of.values()), sum(cached_of.values())


def _timings(
    opened: DoorOpen, close: DoorClose | None, parts: Sequence[EnginePart]
) -> tuple[int, int, int]:
    """Queueing, time to first token, total, in ns since admission; 0 where it did not happen."""
    start_ns = opened.admitted_mono_ns
    scheduled = [
        one.record.part.first_scheduled_ns - one.boot.unix_less_mono_ns
        for one in parts
        if one.record.part.first_scheduled_ns
    ]
    tokens = [
        one.record.part.first_token_ns - one.boot.unix_less_mono_ns
        for one in parts
        if one.record.part.first_token_ns and one.record.part.generated_tokens
    ]
    if close is not None:
        tokens = [close.first_token_mono_ns] if close.first_token_mono_ns else []
        end_ns = close.closed_mono_ns
    else:
        finals = [one.record.final_unix_ns - one.boot.unix_less_mono_ns for one in parts]
        end_ns = max(finals, default=start_ns)
    return (
        max(min(scheduled, default=start_ns) - start_ns, 0),
        max(min(tokens, default=start_ns) - start_ns, 0),
        max(end_ns - start_ns, 0),
    )


def _finish_reason(close: DoorClose | None, parts: Sequence[EnginePart]) -> str:
    reason = close.finish_reason if close else ""
    if not reason and close is not None and close.ending == "aborted" and parts:
        reason = "abort"
    return named(reason, "")


def _status(close: DoorClose | None, outcome: Outcome) -> int:
    if close is not None and _STATUS_FIRST <= close.http_status <= _STATUS_LAST:
        return close.http_status
    return _STATUS_GONE if outcome == "client_gone" else _STATUS_FAILED
