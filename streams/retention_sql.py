"""SQL that finds who began in a month and still tells of a month that is kept."""

from collections.abc import Sequence

from schemas.periods import Period

_NAMED_MAX = 5


def told_later(what: str, tables: Sequence[str], month: Period, kept_from_s: int) -> str:
    """Values of the column `what` that are in the month, and in a month that is kept too.

    Args:
        what: `source` or `engine`.
        tables: Where it is a column.
        month: The month that may go.
        kept_from_s: Months that end after this instant are kept; seconds since the epoch.
    """
    within = (
        f"event_time >= toDateTime64({int(month.start.timestamp())}, 3, 'UTC')"
        f" AND event_time < toDateTime64({int(month.end.timestamp())}, 3, 'UTC')"
    )
    first_kept = f"toStartOfMonth(toDateTime({kept_from_s}, 'UTC'))"
    of_month = " UNION ALL ".join(f"SELECT {what} FROM {one} WHERE {within}" for one in tables)
    later = " UNION ALL ".join(
        f"SELECT {what} FROM {one} WHERE event_time >= {first_kept}" for one in tables
    )
    return (
        f"SELECT DISTINCT toString({what}) FROM ({later}) WHERE {what} IN ({of_month})"
        f" ORDER BY 1 LIMIT {_NAMED_MAX}"
    )
