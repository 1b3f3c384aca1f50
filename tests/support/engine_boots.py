"""Who an engine of a test is."""

from typing import Any

from inference.engine_records import EngineBoot


def engine_boot(engine: str, *, start_ns: int, **changes: Any) -> EngineBoot:
    """An engine of one GPU that shares equally, but for the changes."""
    facts: dict[str, Any] = {
        "host": "host",
        "pid": 1,
        "model": "tiny",
        "replica": "r0",
        "region": "local",
        "gpu_type": "cpu",
        "gpus": 1,
        "attribution_model": "equal.1",
        "software": "test",
        "unix_less_mono_ns": 0,
    }
    return EngineBoot(engine=engine, start_unix_ns=start_ns, **facts | changes)
