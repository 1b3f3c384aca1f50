"""Headers of published roll-up runs: the proof that stays when ClickHouse is dropped."""

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, RowMapping, func, insert, select

from infra.store.engine import take_turns
from infra.store.tables import rollup_runs
from infra.store.times import hour_to_ms, ms_to_hour
from schemas.errors import ConservationError


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What one run of one hour was made from.

    `offsets` is canonical JSON, `decisions_position` the newest decision that counted,
    `events` and `rows` are how many went in and came out.
    """

    run_id: str
    hour: datetime
    digest: str
    offsets: str
    rules_version: str
    decisions_position: int
    events: int
    rows: int
    published_at_ms: int


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run in the store; of one hour the one with the highest `position` is in force."""

    position: int
    header: RunHeader


def record_run(store: Engine, header: RunHeader) -> int:
    """Append a run to its hour; the same run again changes nothing.

    Runners at once take turns, so the positions of an hour are dense from 1.

    Returns:
        The run's position within its hour, old or new.

    Raises:
        ContractError: If `header.hour` is not a whole UTC hour.
        ConservationError: If the run is recorded with other content (its time aside).
    """
    hour_ms = hour_to_ms(header.hour)
    with store.begin() as connection:
        take_turns(connection, f"rollup_runs/{hour_ms}")
        known = (
            connection.execute(select(rollup_runs).where(rollup_runs.c.run_id == header.run_id))
            .mappings()
            .one_or_none()
        )
        if known is not None:
            return _same_run(known, header)
        position = _next_position(connection, hour_ms)
        values = asdict(header) | {"position": position, "hour_ms": hour_ms}
        del values["hour"]
        connection.execute(insert(rollup_runs).values(values))
        return position


def next_position(store: Engine, hour: datetime) -> int:
    """The position that the hour's next run will get, 1 for its first.

    Only a look: another runner may take it before `record_run` does.
    """
    with store.connect() as connection:
        return _next_position(connection, hour_to_ms(hour))


def runs_between(store: Engine, start: datetime, end: datetime) -> list[RecordedRun]:
    """Every run of the hours in `[start, end)`, by hour and position, also those replaced.

    Raises:
        ContractError: If a bound is not a whole UTC hour.
    """
    wanted = (
        select(rollup_runs)
        .where(rollup_runs.c.hour_ms >= hour_to_ms(start), rollup_runs.c.hour_ms < hour_to_ms(end))
        .order_by(rollup_runs.c.hour_ms, rollup_runs.c.position)
    )
    with store.connect() as connection:
        return [_recorded(row) for row in connection.execute(wanted).mappings()]


def _next_position(connection: Connection, hour_ms: int) -> int:
    highest = select(func.coalesce(func.max(rollup_runs.c.position), 0)).where(
        rollup_runs.c.hour_ms == hour_ms
    )
    return int(connection.execute(highest).scalar_one()) + 1


def _same_run(known: RowMapping, header: RunHeader) -> int:
    past = _recorded(known)
    then = asdict(past.header) | {"published_at_ms": 0}
    now = asdict(header) | {"published_at_ms": 0}
    differing = sorted(name for name in now if now[name] != then[name])
    if differing:
        name = differing[0]
        raise ConservationError(
            f"run {header.run_id} is recorded with {name}={then[name]!r}, now {now[name]!r}"
        )
    return past.position


def _recorded(row: RowMapping) -> RecordedRun:
    fields = {name: row[name] for name in row if name not in ("hour_ms", "position")}
    return RecordedRun(row["position"], RunHeader(hour=ms_to_hour(row["hour_ms"]), **fields))
