"""Valid `request.finished` records in any number, fast: a golden example with its values varied."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.ids import derived_uuid, format_ms, uuid7

EXAMPLE = Path("schemas/examples/v1/valid/request.finished--stop.json")
FIRST_MS = 1_790_812_800_000
"""2026-10-01: all events lie in one month."""
BETWEEN_EVENTS_MS = 3
MODELS = ("llama-3.1-8b", "llama-3.3-70b", "llama-4-scout", "llama-4-maverick")
TIERS = ("standard", "priority", "batch", "flex")


def golden_values(count: int, first: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """`count` records as `(key, value)`, from number `first` on; equal numbers, equal bytes."""
    template = _template()
    luck = random.Random(first)
    hosts = [(derived_uuid("bench", str(n)), derived_uuid("engine", str(n))) for n in range(8)]
    for number in range(first, first + count):
        at_ms = FIRST_MS + number * BETWEEN_EVENTS_MS
        source, engine = hosts[number % 8]
        event_id = uuid7(at_ms, luck.getrandbits(74))
        fresh, cached, generated = (
            luck.randrange(10, 4_000),
            luck.randrange(0, 3_000),
            luck.randrange(1, 900),
        )
        gpu_ns = luck.randrange(10**8, 10**10)
        tenant = luck.randrange(200)
        value = template % {
            "id": event_id,
            "source": source,
            "sequence": number // 8 + 2,
            "tenant": f"tenant-{tenant:04d}",
            "time": format_ms(at_ms),
            "project": f"project-{tenant * 3 + number % 3}",
            "api_key": f"key-{tenant * 5 + number % 5}",
            "client_request_id": f"req-{luck.getrandbits(64):016x}",
            "end_user": f"{luck.getrandbits(128):032x}",
            "model": MODELS[tenant % 4],
            "service_tier": TIERS[number % 4],
            "replica": f"replica-{number % 8}",
            "finished_at": format_ms(at_ms + generated * 20),
            "fresh": fresh,
            "cached": cached,
            "generated": generated,
            "decoded": generated - 1,
            "gpu_ns": gpu_ns,
            "gpu_prefill_ns": gpu_ns // 5,
            "queue_ns": luck.randrange(10**7),
            "first_token_ns": luck.randrange(10**9),
            "total_ns": generated * 20_000_000,
            "engine": engine,
            "ordinal": number // 8 + 1,
        }
        yield event_id.encode(), value.encode()


def _template() -> str:
    """The golden example as compact JSON with a place for each value that varies."""
    event: dict[str, Any] = json.loads(EXAMPLE.read_text())
    data = event["data"]
    part = data["parts"][0]
    event |= {"id": "%(id)s", "source": "%(source)s", "subject": "%(tenant)s", "time": "%(time)s"}
    event["sequence"] = "#sequence"
    for name in ("project", "api_key", "client_request_id", "end_user", "model", "service_tier"):
        data[name] = f"%({name})s"
    data |= {"replica": "%(replica)s", "finished_at": "%(finished_at)s"}
    data |= {"input_uncached_tokens": "#fresh", "input_cache_read_tokens": "#cached"}
    data |= {"input_cache_write_tokens": 0, "output_reasoning_tokens": 0, "hidden_tokens": 0}
    for name in ("output_text_tokens", "generated_tokens", "delivered_tokens"):
        data[name] = "#generated"
    data |= {"gpu_recompute_ns": 0, "gpu_ns": "#gpu_ns", "gpu_prefill_ns": "#gpu_prefill_ns"}
    for name in ("queue_ns", "first_token_ns", "total_ns"):
        data[name] = f"#{name}"
    data["parts"] = [
        part
        | {"engine": "%(engine)s", "ordinal": "#ordinal", "gpu_ns": "#gpu_ns"}
        | {"generated_tokens": "#generated", "prompt_computed_tokens": "#fresh"}
        | {"recomputed_tokens": 0, "decode_scheduled_tokens": "#decoded"}
        | {"drafts_rejected_tokens": 0, "discarded_tokens": 0}
    ]
    text = json.dumps(event, separators=(",", ":"))
    for name in ("sequence", "fresh", "cached", "generated", "gpu_ns", "gpu_prefill_ns"):
        text = text.replace(f'"#{name}"', f"%({name})d")
    for name in ("queue_ns", "first_token_ns", "total_ns", "ordinal", "decoded"):
        text = text.replace(f'"#{name}"', f"%({name})d")
    return text
