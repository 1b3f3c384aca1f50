"""The short profiles of `make chaos-engine`: mixed load, kills, every event accounted for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from infra.kafka.topics import ensure_topics
from tests.engine.served.chaos import run_chaos
from tests.engine.served.chaos_kills import WHATS, What
from tests.engine.served.chaos_report import ChaosReport
from tests.support.servers.kafka import kafka

pytestmark = [pytest.mark.engine, pytest.mark.chaos, pytest.mark.timeout(3_600)]
SERVERS: tuple[What, ...] = ("engine", "API server", "API server and engine")
OTHERS: tuple[What, ...] = tuple(what for what in WHATS if what not in (*SERVERS, "worker"))


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with kafka() as found:
        ensure_topics(found)
        yield found


def killed_under_load(
    folder: Path, bootstrap: str, model: Path, whats: Sequence[What], *, requests: int
) -> ChaosReport:
    """Each of these dies once."""
    report = run_chaos(
        folder, bootstrap, model, requests=requests, seed=1, kills=len(whats), whats=whats
    )
    report.show(Console(width=160))
    assert report.findings == []
    assert {kill.what for kill in report.kills} == set(whats)
    assert len(report.story.finished) == len(report.witness.opened) > requests * 2 // 3
    assert report.compared() > requests // 4
    # Who dies by -9 leaves an interval that says what nobody can account for.
    assert [one for one in report.story.residues if one.interval.synthesized]
    return report


def test_engine_and_api_server_killed_under_load_leave_one_event_each_and_intervals_that_close(
    tmp_path: Path, bootstrap: str, model: Path
) -> None:
    killed_under_load(tmp_path / "run", bootstrap, model, SERVERS, requests=93)


@pytest.mark.deep
def test_whoever_else_is_killed_or_asked_to_stop_leaves_one_event_each_too(
    tmp_path: Path, bootstrap: str, model: Path
) -> None:
    killed_under_load(tmp_path / "run", bootstrap, model, OTHERS, requests=124)
