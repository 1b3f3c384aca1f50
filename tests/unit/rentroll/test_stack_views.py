"""What a person reads about the stack."""

import io

import pytest
from rich.console import Console

from infra.stack.doctor import Check
from infra.stack.status import MemberStatus, StackStatus
from rentroll.stack_views import elapsed, show_checks, status_table


def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def written(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"),
        (59, "59s"),
        (60, "1m 0s"),
        (3_599, "59m 59s"),
        (7_800, "2h 10m"),
        (90_000, "1d 1h"),
    ],
)
def test_uptime_is_said_as_a_person_says_it(seconds: int, said: str) -> None:
    assert elapsed(seconds) == said


def test_failed_check_shows_its_remedy_and_makes_the_whole_fail() -> None:
    checks = [
        Check("Python", ok=True, found="3.11.7"),
        Check("Java", False, "not found", "get [it]"),
    ]
    to = console()
    assert not show_checks(to, checks)
    assert "to mend it: get [it]" in written(to)
    assert show_checks(console(), checks[:1])


def test_table_says_what_is_down() -> None:
    down = MemberStatus("kafka", "process", "127.0.0.1:1", None, False, "down", None)
    status = StackStatus(None, (down,))
    assert not status.healthy
    to = console()
    to.print(status_table(status))
    assert "down" in written(to)
    assert "rentroll up" in written(to)
