"""The short profile of `make chaos-engine`: mixed load, two kills, every event accounted for."""

from pathlib import Path

import pytest
from rich.console import Console

from infra.kafka.topics import ensure_topics
from tests.engine.served.chaos import run_chaos
from tests.engine.served.host import write_model
from tests.support.servers.kafka import kafka

pytestmark = [pytest.mark.engine, pytest.mark.chaos, pytest.mark.timeout(1_500)]


def test_killed_under_load_every_request_has_one_event_and_every_interval_closes(
    tmp_path: Path,
) -> None:
    with kafka() as bootstrap:
        ensure_topics(bootstrap)
        model = write_model(tmp_path / "model")
        report = run_chaos(tmp_path / "run", bootstrap, model, requests=62, seed=1, kills=2)
    report.show(Console(width=160))
    assert report.findings == []
    assert len(report.story.finished) == len(report.witness.opened) > 40
    assert report.compared() > 15
    # The one that dies by -9 leaves an interval that says what nobody can account for.
    assert [one for one in report.story.residues if one.interval.synthesized]
