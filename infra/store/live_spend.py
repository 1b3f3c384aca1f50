"""Running usage and estimated spend in the billing store: partial sums, and how far the log is in.

Never used for invoices. A partial sum belongs to one partition of the log and grows in the same
transaction in which that partition's offset moves: whoever is killed in between has done nothing.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Table, delete, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from infra.store.tables import admission_holds, live_offsets, live_tenant_months, live_windows
from schemas.errors import OffsetMovedError
from schemas.spend import MEASURES, Grain, MonthKey, PartialSums, WindowKey

CORRECTED = -1
"""The partition under which hour close corrects what the log's partitions have summed."""
_KEY = ("tenant", "grain", "start_ms", "project", "api_key", "kafka_partition")
_REQUESTS_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Stretch:
    """The records `[start, end)` of one partition, and what they add."""

    topic: str
    partition: int
    start: int
    end: int
    sums: PartialSums


def offset_of(store: Engine, topic: str, partition: int) -> int | None:
    """The first offset that is not in the sums; None before anything is."""
    with store.connect() as connection:
        return _offset(connection, topic, partition)


def offsets_of(connection: Connection, topic: str) -> dict[int, int]:
    """The first offset that is not in the sums, by partition."""
    rows = connection.execute(select(live_offsets).where(live_offsets.c.topic == topic))
    return {row.kafka_partition: row.next_offset for row in rows}


def add_stretches(store: Engine, stretches: Sequence[Stretch]) -> None:
    """Add stretches to the sums, move their offsets and let the holds of finished requests go.

    All of it or nothing.

    Raises:
        OffsetMovedError: If one does not begin where the sums of its partition end.
    """
    ordered = sorted(stretches, key=lambda one: (one.topic, one.partition))
    with store.begin() as connection:
        for one in ordered:
            _move_offset(connection, one)
        for one in ordered:
            add_to_windows(connection, one.partition, one.sums.windows)
            add_to_months(connection, one.partition, one.sums.months)
        let_go(connection, [event for one in ordered for event in one.sums.finished])


def add_to_windows(
    connection: Connection, partition: int, windows: Mapping[WindowKey, Sequence[int]]
) -> None:
    """Add to one partition's partial sums, in one order: so no two writers wait for each other."""
    rows = [(*key, partition, *values) for key, values in sorted(windows.items())]
    _add(connection, live_windows, _KEY, MEASURES, rows)


def add_to_months(connection: Connection, partition: int, months: Mapping[MonthKey, int]) -> None:
    """Add to the monthly partial sums of one partition."""
    rows = [(*key, partition, amount_e9) for key, amount_e9 in sorted(months.items())]
    key = ("tenant", "month_ms", "kafka_partition")
    _add(connection, live_tenant_months, key, ("amount_e9",), rows)


def let_go(connection: Connection, events: Sequence[bytes]) -> None:
    """Forget the holds of requests whose cost is in the sums now: those that the events end."""
    if connection.execute(select(admission_holds.c.request).limit(1)).first() is None:
        return
    for first in range(0, len(events), _REQUESTS_AT_ONCE):
        some = [str(UUID(bytes=one)) for one in events[first : first + _REQUESTS_AT_ONCE]]
        connection.execute(delete(admission_holds).where(admission_holds.c.request.in_(some)))


def read_windows(
    store: Engine, tenant: str, grain: Grain, start_ms: int, end_ms: int
) -> dict[tuple[str, str], dict[str, int]]:
    """What a tenant used in the windows that begin in `[start_ms, end_ms)`.

    Returns:
        By project and API key, each of `MEASURES`.
    """
    wanted = (
        select(
            live_windows.c.project,
            live_windows.c.api_key,
            *(func.sum(live_windows.c[name]).label(name) for name in MEASURES),
        )
        .where(
            live_windows.c.tenant == tenant,
            live_windows.c.grain == grain,
            live_windows.c.start_ms >= start_ms,
            live_windows.c.start_ms < end_ms,
        )
        .group_by(live_windows.c.project, live_windows.c.api_key)
        .order_by(live_windows.c.project, live_windows.c.api_key)
    )
    with store.connect() as connection:
        return {
            (row.project, row.api_key): {name: int(getattr(row, name)) for name in MEASURES}
            for row in connection.execute(wanted)
        }


def forget_windows(store: Engine, grain: Grain, before_ms: int) -> int:
    """Drop windows that began before; returns how many rows that were."""
    with store.begin() as connection:
        done = connection.execute(
            delete(live_windows).where(
                live_windows.c.grain == grain, live_windows.c.start_ms < before_ms
            )
        )
        return int(done.rowcount)


def _offset(connection: Connection, topic: str, partition: int) -> int | None:
    return connection.execute(
        select(live_offsets.c.next_offset).where(
            live_offsets.c.topic == topic, live_offsets.c.kafka_partition == partition
        )
    ).scalar_one_or_none()


def _move_offset(connection: Connection, stretch: Stretch) -> None:
    place = {"topic": stretch.topic, "kafka_partition": stretch.partition}
    insert = _dialect(connection).insert(live_offsets)
    connection.execute(insert.values(**place, next_offset=stretch.start).on_conflict_do_nothing())
    moved = connection.execute(
        update(live_offsets)
        .filter_by(**place)
        .where(live_offsets.c.next_offset == stretch.start)
        .values(next_offset=stretch.end)
    )
    if moved.rowcount != 1:
        now = _offset(connection, stretch.topic, stretch.partition)
        raise OffsetMovedError(
            f"{stretch.topic}/{stretch.partition}: sums end at {now}, not at {stretch.start}"
        )


def _add(
    connection: Connection,
    table: Table,
    key: Collection[str],
    measures: Collection[str],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    """Add each row to the one with its key, or insert it."""
    if not rows:
        return
    columns = [*key, *measures]
    if connection.dialect.name == "postgresql":
        # One statement with an array per column: a statement per row would take a second.
        kinds = {name: "text" if name in _TEXTS else "bigint" for name in columns}
        arrays = ", ".join(f"CAST(:{name} AS {kinds[name]}[])" for name in columns)
        source = f"SELECT * FROM unnest({arrays})"  # noqa: S608 - our own names
        parameters: Any = {
            name: list(values)
            for name, values in zip(columns, zip(*rows, strict=True), strict=True)
        }
    else:
        source = f"VALUES ({', '.join(f':{name}' for name in columns)})"
        parameters = [dict(zip(columns, row, strict=True)) for row in rows]
    grown = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in measures)
    connection.execute(
        text(
            f"INSERT INTO {table.name} ({', '.join(columns)}) {source}"
            f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {grown}"
        ),
        parameters,
    )


_TEXTS = frozenset({"tenant", "grain", "project", "api_key"})


def _dialect(connection: Connection) -> Any:
    return postgresql if connection.dialect.name == "postgresql" else sqlite


def spent_by_month(connection: Connection, tenants: Iterable[str]) -> dict[MonthKey, int]:
    """What tenants are estimated to have spent, by calendar month."""
    sums = live_tenant_months.c
    wanted = (
        select(sums.tenant, sums.month_ms, func.sum(sums.amount_e9).label("amount_e9"))
        .where(sums.tenant.in_(list(tenants)))
        .group_by(sums.tenant, sums.month_ms)
    )
    return {
        MonthKey(row.tenant, row.month_ms): int(row.amount_e9) for row in connection.execute(wanted)
    }
