"""`rentroll close` and `rentroll completeness` as a person runs them."""

import json
import os
from pathlib import Path

import pytest

from tests.support.closing import Books
from tests.support.command_line import Rentroll
from tests.support.events import one_busy_hour


def test_close_prints_hours_and_totals_and_writes_the_report(
    books: Books, rentroll: Rentroll, tmp_path: Path
) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(host.records)
    books.writer.write(host.records)
    report = tmp_path / "report.json"

    done = rentroll.run("close", "--period", "2026-10", "--report", str(report))

    assert done.returncode == 0, done.stderr
    assert "2026-10-01T00:00Z" in done.stdout
    assert "744 of 744 hours published: 5 events, 600 tokens, 200,000,010 GPU ns" in done.stdout
    written = json.loads(report.read_text())
    assert (written["held_hours"], written["lost"], written["copies"]) == (0, 0, 5)
    assert written["hours"][0]["events"] == 5
    assert written["hours"][0]["tokens"]["input_uncached_tokens"] == 500


def test_held_hour_is_shown_with_its_reason_and_ends_with_status_1(
    books: Books, rentroll: Rentroll
) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(one for one in host.records if one.event.sequence != 3)

    done = rentroll.run("close", "--hour", "2026-10-01T00")

    assert done.returncode == 1
    assert "held" in done.stdout
    assert "sequence 3 is missing" in " ".join(done.stdout.split())


def test_completeness_shows_sources_and_engines_and_decides_nothing(
    books: Books, rentroll: Rentroll
) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(one for one in host.records if one.event.sequence != 3)

    done = rentroll.run("completeness", "--period", "2026-10")

    assert done.returncode == 0, done.stderr
    assert host.source[:12] in done.stdout
    assert "3,600,000,000,000" in done.stdout
    assert f"source {host.source} (host host-1): sequence 3 is missing" in done.stdout
    assert books.client.query("SELECT count() FROM rollup_runs").result_rows == [(0,)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--hour", "2026-10-01T25"), "no such hour: '2026-10-01T25'"),
        (("--hour", "2026-10-01"), "an hour looks like 2026-10-01T00"),
        (("--period", "2026-13"), "a period is a month such as 2026-10"),
        ((), "give either --period"),
        (("--period", "2026-10", "--hour", "2026-10-01T00"), "give either --period"),
    ],
)
def test_hours_that_are_none_are_refused(words: tuple[str, ...], message: str) -> None:
    done = Rentroll(dict(os.environ)).run("close", *words)
    assert done.returncode != 0
    assert message in done.stderr
