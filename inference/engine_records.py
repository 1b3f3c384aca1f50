"""What an engine writes into its spool: its boot, parts, intervals, marks, faults and its stop.

Frames carry the engine's id (one boot of one engine) or, for a part, the id of its request, and
`-` for the subject. All times are Unix nanoseconds of the engine's one clock: the wall clock at its
boot plus monotonic time since, so `unix - EngineBoot.unix_less_mono_ns` compares with the door's
monotonic times on the same host.

An interval shares its frame with a mark that is as late as its end (`BatchRecord`), so wherever
a death tears the spool, a recovery knows what each request in flight had used by then.
"""

from typing import NamedTuple

import msgspec

from inference.engine_account import FinishedPart, Interval, UsedSoFar

ENGINE_BATCH = "engine.batch"
ENGINE_BOOT = "engine.boot"
ENGINE_PART = "engine.part"
ENGINE_SPAN = "engine.span"
ENGINE_MARK = "engine.mark"
ENGINE_STOP = "engine.stop"


class EngineBoot(msgspec.Struct, frozen=True, kw_only=True):
    """An engine took its GPUs; the first record of its spool.

    `prefills_only`: it computes prompts for other engines, which decode. They find its work in
    their cache, and generate its one token anew.
    """

    engine: str
    host: str
    pid: int
    model: str
    replica: str
    region: str
    gpu_type: str
    gpus: int
    attribution_model: str
    software: str
    start_unix_ns: int
    unix_less_mono_ns: int
    prefills_only: bool = False


class RequestFacts(NamedTuple):
    """What vLLM says about an engine request, beside the meter.

    `request` is the minted id, or empty where it bypassed the door. `engine_request` is vLLM's own
    id. `cached_tokens` are those of the prompt that the cache held at first.
    """

    request: str
    engine_request: str
    prompt_tokens: int
    cached_tokens: int = 0
    adapter: str = ""
    finish_reason: str = ""


class PartRecord(msgspec.Struct, frozen=True, array_like=True):
    """A part that is final, and what vLLM knows of it."""

    engine: str
    final_unix_ns: int
    facts: RequestFacts
    part: FinishedPart


class SpanRecord(msgspec.Struct, frozen=True, array_like=True):
    """An interval of the meter."""

    engine: str
    interval: Interval


class OpenFacts(msgspec.Struct, frozen=True, array_like=True):
    """A request open at a mark; its generated tokens are in `used`."""

    facts: RequestFacts
    used: UsedSoFar


class MarkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Alive at `unix_ns`: the interval so far, and every request that is not final.

    `faults` counts failures of the metering itself since boot, `fault` says the first of them.
    `unwritten` records are waiting in memory because the disk refuses them.
    """

    engine: str
    unix_ns: int
    so_far: Interval
    open: list[OpenFacts]
    faults: int
    fault: str
    unwritten: int


class BatchRecord(msgspec.Struct, frozen=True, array_like=True):
    """Records that are on disk all together or not at all: (kind, id, data), in order."""

    records: list[tuple[str, str, msgspec.Raw]]


class StopRecord(msgspec.Struct, frozen=True):
    """The engine ends in order: its last interval is above, nothing follows."""

    engine: str
    unix_ns: int
