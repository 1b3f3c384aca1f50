"""Publishing survives a crash after each step, a dropped roll-up, and a ledger that changes."""

from itertools import product

import pytest

from infra.store.runs import runs_between
from schemas.errors import ConservationError
from schemas.periods import HOUR, parse_period
from tests.support.closing import Books, first, states
from tests.support.events import one_busy_hour

OCTOBER = parse_period("2026-10")
STEPS = ("sources", "counted", "decided", "inserted", "verified", "recorded", "published")


class CrashError(Exception):
    """Stands for kill -9 after a step."""


@pytest.mark.parametrize(("step", "more"), list(product(STEPS, [False, True])))
def test_crash_after_any_step_publishes_exactly_once_in_the_end(
    books: Books, step: str, more: bool
) -> None:
    """`more`: the log went on before the second try, so that its offset vector differs."""
    host = one_busy_hour()
    books.register(host)
    books.writer.write(host.records)

    def crash(now: str, *_: int) -> None:
        if now == step:
            raise CrashError

    with pytest.raises(CrashError):
        books.close(progress=crash)
    assert books.view() in ((0, 0, 0), (5, 500, 200_000_010))
    if more:
        books.writer.write(host.records[:3])

    closing = books.close()

    assert states(closing) == ["published"] * 3
    assert books.view() == (5, 500, 200_000_010)
    runs = runs_between(books.store, OCTOBER.start, OCTOBER.start + HOUR)
    assert [run.header.run_id for run in runs] == [first(closing).run_id]
    assert books.client.query("SELECT run_id FROM rollup_runs").result_rows == [
        (first(closing).run_id.encode(),)
    ]


def test_dropped_rollup_is_written_again_under_the_same_run(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(host.records)
    before = first(books.close())
    for table in ("usage_hourly_runs", "rollup_runs"):
        books.client.command(f"TRUNCATE TABLE {table}")
    assert books.view() == (0, 0, 0)

    again = first(books.close())

    assert (again.run_id, again.changed) == (before.run_id, False)
    assert books.view() == (5, 500, 200_000_010)


def test_rows_that_do_not_add_up_are_not_published(books: Books) -> None:
    host = one_busy_hour()
    books.register(host)
    books.writer.write(host.records)

    def tamper(step: str, *_: int) -> None:
        if step == "counted":
            books.client.command(
                "ALTER TABLE usage_events DELETE WHERE sequence = 3 SETTINGS mutations_sync = 2"
            )

    with pytest.raises(ConservationError, match="4 requests to roll up, the ledger has 5"):
        books.close(progress=tamper)
    assert books.view() == (0, 0, 0)
