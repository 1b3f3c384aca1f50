"""Reads vLLM's own counters from the text of its `/metrics`: pure."""

import re
from collections import Counter
from decimal import Decimal
from typing import NamedTuple

from schemas.errors import ServerError

_SAMPLE = re.compile(r"(vllm:[a-z_]+)(?:\{(.*)\})? (\S+)")
_FINISHED = "vllm:request_success_total"
_ANSWERED = re.compile(r'finished_reason="(?:stop|length)"')
_NEEDED = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", _FINISHED)


class VllmCounters(NamedTuple):
    """Sums over all engines. `answered` ended by stop or length; `busy` still run or wait."""

    answered: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    busy: int


NO_COUNTERS = VllmCounters(0, 0, 0, 0, 0)


def read_counters(text: str) -> VllmCounters:
    """The counters in a text of Prometheus' exposition format.

    Raises:
        ServerError: If this vLLM does not count what is needed; names the counter.
    """
    sums: Counter[str] = Counter()
    for line in text.splitlines():
        found = _SAMPLE.fullmatch(line)
        if found is None:
            continue
        name, labels, value = found.groups()
        if name == _FINISHED and not _ANSWERED.search(labels or ""):
            value = "0"
        # Counts are written like 3.0 or 1.2e+06, exact up to 2^53.
        sums[name] += int(Decimal(value)) if value != "NaN" else 0
    missing = [name for name in _NEEDED if name not in sums]
    if missing:
        raise ServerError(f"vLLM's /metrics has no {missing[0]}: its counters cannot be compared")
    return VllmCounters(
        answered=sums[_FINISHED],
        prompt_tokens=sums["vllm:prompt_tokens_total"],
        cached_tokens=sums["vllm:prompt_tokens_cached_total"],
        generated_tokens=sums["vllm:generation_tokens_total"],
        busy=sums["vllm:num_requests_running"] + sums["vllm:num_requests_waiting"],
    )
