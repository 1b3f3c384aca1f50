"""Periods: half-open months of whole UTC hours."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest

from schemas.errors import ContractError
from schemas.periods import HOUR, Period, hour_of, hour_text, parse_period, period_of


def test_month_is_half_open_in_utc() -> None:
    october = parse_period("2026-10")
    assert october == Period(
        datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC), "2026-10"
    )
    assert october.start in october
    assert october.end not in october
    assert october.end - timedelta(microseconds=1) in october
    assert "2026-10" not in october


def test_december_ends_with_the_year() -> None:
    assert parse_period("2026-12").end == datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "hours"), [("2026-10", 744), ("2026-02", 672), ("2028-02", 696), ("2026-03", 744)]
)
def test_month_has_all_its_hours_also_where_clocks_change(name: str, hours: int) -> None:
    period = parse_period(name)
    listed = list(period.hours())
    assert len(listed) == hours
    assert listed[0] == period.start
    assert listed[-1] + HOUR == period.end
    assert all(after - before == HOUR for before, after in pairwise(listed))


@pytest.mark.parametrize(
    "name",
    ["", "2026", "2026-1", "2026-13", "2026-00", "1969-12", "3000-01", "2026-10-01", "2026-10\n"],
)
def test_what_is_no_month_is_refused(name: str) -> None:
    with pytest.raises(ContractError, match="a period is a month such as 2026-10"):
        parse_period(name)


def test_instant_belongs_to_its_utc_month_and_hour() -> None:
    east = timezone(timedelta(hours=9, minutes=30))
    instant = datetime(2026, 11, 1, 8, 45, 12, 7, tzinfo=east)
    assert period_of(instant).name == "2026-10"
    assert hour_of(instant) == datetime(2026, 10, 31, 23, tzinfo=UTC)


def test_hour_reads_as_people_write_it() -> None:
    assert hour_text(1_790_812_800_000) == "2026-10-01T00:00Z"
