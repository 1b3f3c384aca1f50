"""vLLM's counters are read from its /metrics, all engines together."""

import pytest

from rentroll.vllm_counters import VllmCounters, read_counters
from schemas.errors import ServerError

TEXT = """\
# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="m"} 14316.0
vllm:prompt_tokens_total{engine="1",model_name="m"} 1.2e+06
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:prompt_tokens_cached_total{engine="0",model_name="m"} 9600.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1325.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 4.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 50.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 18.0
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:time_to_first_token_seconds_sum{engine="0"} NaN
python_info{version="3.11"} 1.0
"""


def test_engines_are_added_and_aborted_requests_are_no_answers() -> None:
    assert read_counters(TEXT) == VllmCounters(
        answered=54,
        prompt_tokens=1_214_316,
        cached_tokens=9_600,
        generated_tokens=1_325,
        busy=3,
    )


def test_a_counter_that_is_not_there_is_named_instead_of_counted_as_nothing() -> None:
    with pytest.raises(ServerError, match="vllm:generation_tokens_total"):
        read_counters(TEXT.replace("generation_tokens", "tokens_generated"))
