"""The private names of Faust and aiokafka that the batch transport leans on are all there."""

import inspect
import re
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from streams import batch_transport

PINNED = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0"}
REMEDY = "set RENTROLL_INGEST_GROUPED=true, then adapt streams/batch_transport.py"


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, name) for owner, names in batch_transport.PRIVATE_NAMES.items() for name in names],
)
def test_private_name_is_still_there(owner: str, name: str) -> None:
    module_name, class_name = owner.split(":")
    module = import_module(module_name)
    kind = getattr(module, class_name, None)
    assert kind is not None, f"{owner} is gone: {REMEDY}"
    # Instance attributes are set in the class's own code, or in that of its bases.
    source = "".join(
        inspect.getsource(base) for base in inspect.getmro(kind) if base.__module__ != "builtins"
    )
    assert hasattr(kind, name) or f"self.{name}" in source, f"{owner} lost {name}: {REMEDY}"


@pytest.mark.parametrize(("distribution", "pinned"), PINNED.items())
def test_the_version_is_the_one_whose_private_names_were_read(
    distribution: str, pinned: str
) -> None:
    assert version(distribution) == pinned, f"{distribution} moved: read its changes, then {REMEDY}"


def test_every_private_name_in_the_transport_is_in_its_list() -> None:
    source = Path(batch_transport.__file__).read_text(encoding="utf-8")
    used = set(re.findall(r"(?<!self)\.(_[a-z]\w*)", source))
    listed = {name for names in batch_transport.PRIVATE_NAMES.values() for name in names}
    ours = {"_fetch_batches", "_take_fetched"}
    assert used - listed - ours == set(), "add it to PRIVATE_NAMES"


@pytest.mark.parametrize("planted", ["_gone_tomorrow"])
def test_a_name_that_is_gone_fails_with_the_remedy(planted: str) -> None:
    with pytest.raises(AssertionError, match=r"lost _gone_tomorrow: set RENTROLL_INGEST_GROUPED"):
        test_private_name_is_still_there("aiokafka.consumer.fetcher:Fetcher", planted)
