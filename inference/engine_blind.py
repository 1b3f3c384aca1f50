"""What an engine's books say once their accounting has failed: tokens, and time that is not shared.

Pure. Parts carry the engine's own token counts and no GPU time; intervals say that their time was
attributed, to nobody: the identity by ordinals does not hold, so every such hour is held.
"""

from collections.abc import Sequence

from inference.engine_account import FinishedPart, Interval, UsedSoFar
from inference.engine_records import EngineBoot, RequestFacts
from schemas.ids import uuid7_unix_ms
from schemas.units import NS_PER_MS


def part_without_time(
    facts: RequestFacts, ordinal: int, generated: int, now_ns: int
) -> FinishedPart:
    """The part of a request whose share of time is unknown."""
    return FinishedPart(
        request=facts.engine_request,
        ordinal=ordinal,
        gpu_ns=0,
        gpu_prefill_ns=0,
        gpu_recompute_ns=0,
        generated_tokens=generated,
        prompt_computed_tokens=facts.prompt_tokens - max(facts.cached_tokens, 0),
        recomputed_tokens=0,
        decode_scheduled_tokens=max(generated - 1, 0),
        drafts_rejected_tokens=0,
        discarded_tokens=0,
        added_ns=now_ns,
        first_scheduled_ns=0,
        first_token_ns=0,
        finished_ns=now_ns,
    )


def unused(request: str, generated: int, now_ns: int) -> UsedSoFar:
    """What a mark says of an open request whose share of time is unknown."""
    decode = max(generated - 1, 0)
    return UsedSoFar(request, 0, 0, 0, 0, 0, decode, 0, generated, now_ns, 0, 0)


def interval_without_parts(
    boot: EngineBoot,
    last: Interval | None,
    end_ns: int,
    ordinal: int,
    opens: Sequence[RequestFacts],
) -> Interval:
    """The time since the last interval, all of it attributed and none of it in a part.

    Args:
        boot: The engine.
        last: Its last interval, None if there was none.
        end_ns: When this one ends.
        ordinal: Of its last part.
        opens: Its open requests.
    """
    start_ns = last.end_ns if last else boot.start_unix_ns
    owned_ns = boot.gpus * (end_ns - start_ns)
    open_step_ns = last.open_step_end_ns if last else 0
    return Interval(
        start_ns=start_ns,
        end_ns=end_ns,
        owned_ns=owned_ns,
        attributed_ns=owned_ns + open_step_ns,
        stall_ns=0,
        idle_ns=0,
        overhead_ns=0,
        startup_ns=0,
        open_step_start_ns=open_step_ns,
        open_step_end_ns=0,
        in_flight_start_ns=last.in_flight_end_ns if last else 0,
        in_flight_end_ns=0,
        ordinal_start=last.ordinal_end if last else 0,
        ordinal_end=ordinal,
        tokens_scheduled=0,
        steps=0,
        running_requests=len(opens),
        waiting_requests=0,
        oldest_open_ms=min(
            (uuid7_unix_ms(one.request) for one in opens if one.request),
            default=end_ns // NS_PER_MS,
        ),
    )
