"""What checks the chaos run finds each fault that is planted into what a host has published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.control import SourceOpened
from tests.support.host_history import HostHistory
from tests.support.host_spools import drain, outbox_events, settings_for, write_history
from tests.support.served_story import Story, Witness
from tests.support.spool_tap import SpoolTap

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], dict[str, str], Witness]:
    """What a host with a killed engine and a killed door has published, its keys, its spools."""
    folder: Path = tmp_path_factory.mktemp("host")
    settings = settings_for(folder)
    history = HostHistory(11, requests=40)
    history.play(kills=2)
    tap = SpoolTap(settings.host_folder, folder / "tap")
    for _ in write_history(history, settings):
        pass
    tap.close()
    drain(settings)
    events = outbox_events(settings)
    opened = events[0][1]
    assert isinstance(opened, SourceOpened)
    keys = {opened.source: opened.data.public_key}
    return [value for value, _ in events], keys, tap.witness()


def findings(values: list[bytes], keys: dict[str, str], witness: Witness) -> list[str]:
    return Story(values, keys).check(witness)


def changed(values: list[bytes], change: Callable[[dict[str, Any]], None]) -> list[bytes]:
    """The last event of a request with a part, changed."""
    events = [json.loads(value) for value in values]
    place = max(one for one, event in enumerate(events) if event["data"].get("parts"))
    change(events[place]["data"])
    return [*values[:place], json.dumps(events[place]).encode(), *values[place + 1 :]]


def test_a_host_that_kept_its_promises_has_no_findings(
    told: tuple[list[bytes], dict[str, str], Witness],
) -> None:
    values, keys, witness = told
    story = Story(values, keys)
    assert story.check(witness) == []
    assert len(story.finished) == len(witness.opened) == 40
    assert [one for one in story.residues if one.interval.synthesized]


def test_a_record_that_kafka_has_twice_is_a_copy_and_no_finding(
    told: tuple[list[bytes], dict[str, str], Witness],
) -> None:
    values, keys, witness = told
    story = Story([*values, values[3]], keys)
    assert story.check(witness) == []
    assert story.copies == 1


def test_planted_loss_is_found_in_every_place_that_it_breaks(
    told: tuple[list[bytes], dict[str, str], Witness],
) -> None:
    values, keys, witness = told
    request = next(one for one, value in enumerate(values) if b"request.finished" in value)
    found = findings(values[:request] + values[request + 1 :], keys, witness)
    assert any("has holes" in one for one in found)
    assert any("was opened and has no event" in one for one in found)
    assert any("is not closed" in one for one in findings(values[:-1], keys, witness))


def test_planted_change_of_gpu_time_leaves_a_residue(
    told: tuple[list[bytes], dict[str, str], Witness],
) -> None:
    values, keys, witness = told

    def one_ns_more(data: dict[str, Any]) -> None:
        data["gpu_ns"] += 1
        data["parts"][0]["gpu_ns"] += 1

    found = findings(changed(values, one_ns_more), keys, witness)
    assert any("parts=-1 ns" in one for one in found)
    assert any("is of other events" in one for one in found)


def test_planted_watermark_that_promised_too_much_is_found(
    told: tuple[list[bytes], dict[str, str], Witness],
) -> None:
    values, keys, witness = told
    first = next(one for one, value in enumerate(values) if b"engine.interval" in value)
    request = next(one for one in range(first, len(values)) if b"request.finished" in values[one])
    event = json.loads(values[first])
    event["data"]["end_unix_ns"] += 86_400 * 10**9
    event["data"]["oldest_open_at"] = "2026-10-01T12:00:00.000Z"
    event["data"]["owned_ns"] += 86_400 * 10**9 * event["data"]["gpus"]
    event["data"]["unaccounted_ns"] += 86_400 * 10**9 * event["data"]["gpus"]
    event["data"]["synthesized"] = True
    planted = [json.dumps(event).encode() if one == first else v for one, v in enumerate(values)]
    assert request > first
    found = findings(planted, keys, witness)
    assert any("older than the watermark" in one for one in found)
    assert any("do not join" in one for one in found)


def test_planted_event_of_an_unknown_request_and_of_another_tenant_is_found(
    told: tuple[list[bytes], dict[str, str], Witness],
) -> None:
    values, keys, witness = told
    request, opened = next(iter(witness.opened.items()))
    unopened = Witness(**vars(witness) | {"opened": {**witness.opened}})
    del unopened.opened[request]
    assert any("no door has opened" in one for one in findings(values, keys, unopened))
    other = Witness(**vars(witness) | {"opened": {**witness.opened}})
    other.opened[request] = type(opened)(
        **{name: getattr(opened, name) for name in opened.__struct_fields__} | {"tenant": "bolt2"}
    )
    assert any("not bolt2" in one for one in findings(values, keys, other))


def test_planted_unregistered_source_is_found(
    told: tuple[list[bytes], dict[str, str], Witness],
) -> None:
    values, keys, witness = told
    assert any("is not registered" in one for one in findings(values, {}, witness))
    other = dict.fromkeys(keys, "00" * 32)
    found = findings(values, other, witness)
    assert any("is not signed with its key" in one for one in found)
    assert any("is not opened with its registered key" in one for one in found)
