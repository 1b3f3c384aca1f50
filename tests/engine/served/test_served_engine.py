"""Stock `vllm serve`, metered: exactly one event per client request, on every path, to the ns."""

import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.engine.served.host import ServedHost
from tests.engine.served.story import (
    assert_counts_are_the_clients,
    assert_intervals_close,
    events_of,
    intervals_of,
    requests_of,
    say,
    told,
)
from tests.engine.served.traffic import Traffic
from tests.support.serve_runs import wait_for

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1_800)]
ROUNDS = 3
"""Requests of each kind."""


@pytest.mark.deep
@pytest.mark.parametrize(
    ("engine", "server"),
    [(True, False), (False, True), (True, True)],
    ids=["engine", "API server", "both"],
)
def test_kill_9_in_the_middle_leaves_one_event_each_and_intervals_that_close(
    tmp_path: Path, model: Path, engine: bool, server: bool
) -> None:
    host = ServedHost(tmp_path, model)
    try:
        host.wait_ready()
        traffic = Traffic(host, seed=2)

        def kill_in_the_middle() -> None:
            wait_for(lambda: traffic.begun >= 30, "request 30", 300)
            host.kill(engine=engine, server=server)

        killer = threading.Thread(target=kill_in_the_middle)
        killer.start()
        seen = traffic.run(80)
        killer.join()
    finally:
        host.end()
    events = events_of(host)
    requests = requests_of(events)
    say(told(seen, events))
    assert_counts_are_the_clients(
        host, [one for one in seen if not one.broken and one.status < 500], requests
    )
    assert_intervals_close(events)
    assert len([one for one in intervals_of(events) if one.data.synthesized]) == 1
    outcomes = Counter(event.data.outcome for event in requests.values())
    assert outcomes["engine_death"] + outcomes["error"] >= 1
