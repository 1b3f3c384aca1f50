"""When dunning reminds and suspends, day by day."""

import pytest

from billing.dunning import Remind, Schedule, Standing, Suspend, next_action

DAY = 86_400_000
SCHEDULE = Schedule(3 * DAY, 7 * DAY, 21 * DAY)
SINCE = 1_000 * DAY


def at(day: int, *, reminders: int = 0, is_suspended: bool = False) -> Remind | Suspend | None:
    return next_action(Standing(SINCE, reminders, is_suspended), SCHEDULE, SINCE + day * DAY)


def test_invoice_that_does_not_fail_is_left_alone() -> None:
    assert next_action(Standing(None, 0, False), SCHEDULE, SINCE + 999 * DAY) is None


def test_schedule_reminds_three_times_then_suspends_once() -> None:
    seen: list[tuple[int, Remind | Suspend]] = []
    reminders, suspended = 0, False
    for day in range(60):
        action = at(day, reminders=reminders, is_suspended=suspended)
        if action is None:
            continue
        seen.append((day, action))
        if isinstance(action, Remind):
            reminders = action.number
        else:
            suspended = True
    assert seen == [
        (3, Remind(1, SINCE + 3 * DAY)),
        (10, Remind(2, SINCE + 10 * DAY)),
        (17, Remind(3, SINCE + 17 * DAY)),
        (21, Suspend()),
    ]


@pytest.mark.parametrize(("day", "number"), [(9, 1), (10, 2), (20, 3)])
def test_reminders_that_were_missed_are_one(day: int, number: int) -> None:
    action = at(day)
    assert isinstance(action, Remind)
    assert action.number == number


def test_one_millisecond_early_is_too_early() -> None:
    standing = Standing(SINCE, 0, False)
    assert next_action(standing, SCHEDULE, SINCE + 3 * DAY - 1) is None
    late = Standing(SINCE, 3, False)
    assert next_action(late, SCHEDULE, SINCE + 21 * DAY - 1) is None
    assert next_action(late, SCHEDULE, SINCE + 21 * DAY) == Suspend()
