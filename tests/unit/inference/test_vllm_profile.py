"""What is read of vLLM's configuration, before an engine is there."""

import re
from types import SimpleNamespace

import pytest

from inference.settings import InferenceSettings
from inference.vllm_profile import gpu_type_of, model_name_of
from schemas.fields import NAME_PATTERN


@pytest.mark.parametrize(
    ("served", "model", "name"),
    [
        (["tiny", "other"], "/models/llama", "tiny"),
        ("tiny", "/models/llama", "tiny"),
        (None, "/models/llama", "models/llama"),
        ("meta-llama/Llama-3.1-8B", "", "meta-llama/Llama-3.1-8B"),
        (None, "./my models/a b", "my-models/a-b"),
        (None, "/" + "x/" * 100, "x/" * 63 + "x/"),
        (None, "/", "unknown"),
    ],
)
def test_model_is_named_as_an_event_can_hold_it(served: object, model: str, name: str) -> None:
    config = SimpleNamespace(model_config=SimpleNamespace(served_model_name=served, model=model))
    found = model_name_of(config)
    assert found == name
    assert re.match(NAME_PATTERN, found)
    assert len(found) <= 128


def test_device_is_named_by_the_settings_first() -> None:
    config = SimpleNamespace(device_config=SimpleNamespace(device_type="cpu"))
    assert gpu_type_of(config, InferenceSettings()) == "cpu"
    assert gpu_type_of(config, InferenceSettings(gpu_type="h100")) == "h100"
