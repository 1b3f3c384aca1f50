"""Two engines behind two API servers: the halves of a request find each other."""

from pathlib import Path

import pytest

from tests.engine.served.host import ServedHost
from tests.engine.served.story import (
    assert_counts_are_the_clients,
    events_of,
    intervals_of,
    requests_of,
    say,
    told,
)
from tests.engine.served.traffic import KINDS, Traffic

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1_800)]
OPTIONS = "--data-parallel-size 2 --api-server-count 2"


def test_parts_of_two_engines_and_halves_of_two_doors_join_by_id(
    tmp_path: Path, model: Path
) -> None:
    host = ServedHost(tmp_path, model, OPTIONS, door_api_workers=2)
    try:
        host.wait_ready()
        doors = len(list((host.settings.host_folder / "doors").iterdir()))
        seen = Traffic(host, seed=6).run(3 * len(KINDS))
    finally:
        host.end()
    events = events_of(host)
    requests = requests_of(events)
    say(f"{doors} doors; {told(seen, events)}")
    assert doors == 2
    assert assert_counts_are_the_clients(host, seen, requests) > len(seen) // 2
    assert [one.broken for one in seen if one.broken] == []
    parts = [part for event in requests.values() for part in event.data.parts]
    assert len({part.engine for part in parts}) == 2
    assert len({one.data.engine for one in intervals_of(events)}) == 2
    assert not any(one.data.unaccounted_ns for one in intervals_of(events))
    # Samples of one client request, computed by both engines, are in its one event.
    assert any(len({part.engine for part in event.data.parts}) == 2 for event in requests.values())
