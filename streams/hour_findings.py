"""What closing set aside in each hour, kept in ClickHouse for whoever watches."""

from collections.abc import Sequence
from dataclasses import dataclass

from infra.clickhouse.client import Client
from schemas.clock import utc
from schemas.tables import HOUR_FINDINGS
from schemas.units import MS_PER_HOUR, NS_PER_MS
from streams.rollup import hour_at
from streams.rollup_sql import HourRange


@dataclass(frozen=True, slots=True)
class SetAside:
    """Events of one hour that are not billed; see `streams.close.HourVerdict`."""

    hour_ms: int
    unsigned: int = 0
    quarantined: int = 0
    dropped: int = 0


def tell_findings(client: Client, found: Sequence[SetAside], checked_at_ms: int) -> None:
    """Write what was found; of one hour the newest check counts."""
    rows = [
        [
            hour_at(one.hour_ms),
            utc(checked_at_ms * NS_PER_MS),
            one.unsigned,
            one.quarantined,
            one.dropped,
        ]
        for one in found
    ]
    if rows:
        client.insert(
            HOUR_FINDINGS.name,
            rows,
            column_names=HOUR_FINDINGS.column_names(),
            settings={"insert_deduplicate": 0},
        )


def findings_total(client: Client) -> SetAside:
    """The sum over all hours; its `hour_ms` is that of the oldest hour with anything, else 0."""
    ((hour_s, *sums),) = client.query(
        "SELECT toUnixTimestamp(minIf(hour, unsigned_events + quarantined_events > 0)),"
        " sum(unsigned_events), sum(quarantined_events), sum(dropped_events)"
        " FROM hour_findings FINAL"
    ).result_rows
    return SetAside(hour_s * 1_000, *map(int, sums))


def quarantined_hours(client: Client) -> HourRange | None:
    """From the first hour to the last in which the newest close found contradictions."""
    ((first_s, last_s, hours),) = client.query(
        "SELECT toUnixTimestamp(min(hour)), toUnixTimestamp(max(hour)), count()"
        " FROM hour_findings FINAL WHERE quarantined_events > 0"
    ).result_rows
    return HourRange(first_s * 1_000, last_s * 1_000 + MS_PER_HOUR) if hours else None
