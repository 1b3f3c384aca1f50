"""Publishes the runs of some hours, in an order in which a crash at any point does no harm."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from infra.clickhouse.client import Client, ExternalData, external
from infra.store.runs import RecordedRun, RunHeader, record_run
from schemas.clock import utc
from schemas.errors import ConservationError
from schemas.tables import ROLLUP_RUNS
from schemas.units import MS_PER_S, NS_PER_MS
from streams.close_sql import RUNS, published_runs, run_sums, tenant_sums
from streams.completeness_ledger import Ledger
from streams.rollup import (
    RULES_VERSION,
    HourSums,
    hour_at,
    offsets_text,
    refuse_unequal_run,
    run_id,
)
from streams.rollup_sql import HourRange, insert_rollup, insert_tenants

_WRITE_ONCE_MORE = {
    "insert_deduplicate": 0,
    "max_insert_threads": 1,
    "max_insert_block_size": 10_000_000,
    "min_insert_block_size_rows": 10_000_000,
    "min_insert_block_size_bytes": 0,
}
"""Writing a run again must write it: a server that remembers the token of rows which have since
been dropped would swallow the insert. Equal rows collapse by their key, which names the run."""

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Publication:
    """The run in force of one hour after publishing; `changed` if it is a new one."""

    run_id: str
    position: int
    digest: str
    changed: bool


@dataclass(slots=True)
class Publisher:
    """What publishing needs beside the hours themselves.

    `tables` are the external tables `spans` and `rejected`, `told` hears the name of each step
    that is finished.
    """

    ledger: Ledger
    store: Engine
    tables: Mapping[str, tuple[str, Sequence[Sequence[object]]]]
    decisions_position: int
    now_ms: int
    told: Told

    def publish(
        self, sums: Mapping[int, HourSums], in_force: Mapping[int, RecordedRun]
    ) -> dict[int, Publication]:
        """Publish the hours whose digest differs from the run in force; repair the others.

        Rows first, checked against the ledger; then the header into the store, which is the
        promise; then the row that makes the view show the run. A crash before the header leaves
        rows that nobody sees. A crash behind it is repaired by the next close, which finds the
        header with the same digest and finishes it.

        Raises:
            ConservationError: If what was written differs from what was read.
        """
        if not sums:
            return {}
        hours = HourRange(min(sums), max(sums) + 3_600_000)
        offsets = offsets_text(self.ledger.offsets.named())
        runs = {
            hour: in_force[hour].header.run_id
            if hour in in_force and _still_holds(in_force[hour].header, one)
            else run_id(hour, offsets, one.digest, self.decisions_position)
            for hour, one in sums.items()
        }
        rows = self._write_rows(hours, runs, sums)
        self._write_tenants(hours, runs, sums)
        self.told("verified")
        published: dict[int, Publication] = {}
        headers: dict[int, RecordedRun] = {}
        for hour, run in runs.items():
            known = in_force.get(hour)
            changed = known is None or known.header.run_id != run
            headers[hour] = (
                self._record(hour, run, offsets, sums[hour], rows[run])
                if known is None or changed
                else known
            )
            position = headers[hour].position
            published[hour] = Publication(run, position, sums[hour].digest, changed)
        self.told("recorded")
        self._show(hours, headers)
        self.told("published")
        return published

    def _write_rows(
        self, hours: HourRange, runs: Mapping[int, str], sums: Mapping[int, HourSums]
    ) -> dict[str, int]:
        """Bring the rows of every run into ClickHouse; returns how many each has."""
        written = self._written(hours, runs)
        missing = {
            hour: run
            for hour, run in runs.items()
            if written.get(run, (0, HourSums()))[1].measures != sums[hour].measures
        }
        if missing:
            self.ledger.client.command(
                insert_rollup(self.ledger.offsets, hours),
                external_data=self._tables(missing),
                settings=_WRITE_ONCE_MORE,
            )
            self.told("inserted")
            written = self._written(hours, runs)
        for hour, run in runs.items():
            refuse_unequal_run(hour, run, sums[hour], written.get(run, (0, HourSums()))[1])
        return {run: written.get(run, (0, HourSums()))[0] for run in runs.values()}

    def _write_tenants(
        self, hours: HourRange, runs: Mapping[int, str], sums: Mapping[int, HourSums]
    ) -> None:
        """Bring in what each tenant had, which proofs are made of; held to the run's requests."""
        requests = {hour: one.measure("requests") for hour, one in sums.items()}
        found = self._tenants_written(hours, runs)
        missing = {hour: run for hour, run in runs.items() if found.get(run, 0) != requests[hour]}
        if not missing:
            return
        self.ledger.client.command(
            insert_tenants(self.ledger.offsets, hours),
            external_data=self._tables(missing),
            settings=_WRITE_ONCE_MORE,
        )
        found = self._tenants_written(hours, missing)
        for hour, run in missing.items():
            if found.get(run, 0) != requests[hour]:
                raise ConservationError(
                    f"hour {hour_at(hour):%Y-%m-%dT%H:%MZ}, run {run[:12]}…: tenants have"
                    f" {found.get(run, 0)} requests, the run {requests[hour]}; it is not published"
                )

    def _tenants_written(self, hours: HourRange, runs: Mapping[int, str]) -> dict[str, int]:
        rows = self.ledger.client.query(
            tenant_sums(hours), external_data=self._tables(runs)
        ).result_rows
        return {run: int(requests) for run, requests in rows}

    def _written(
        self, hours: HourRange, runs: Mapping[int, str]
    ) -> dict[str, tuple[int, HourSums]]:
        rows = self.ledger.client.query(
            run_sums(hours), external_data=self._tables(runs)
        ).result_rows
        return {
            run: (count, HourSums(digest="", measures=tuple(measures)))
            for run, count, *measures in rows
        }

    def _tables(self, runs: Mapping[int, str]) -> ExternalData:
        rows = [(hour // MS_PER_S, run) for hour, run in runs.items()]
        return external(**self.tables, runs=(RUNS, rows))

    def _record(self, hour: int, run: str, offsets: str, sums: HourSums, rows: int) -> RecordedRun:
        header = RunHeader(
            run_id=run,
            hour=hour_at(hour),
            digest=sums.digest,
            offsets=offsets,
            rules_version=RULES_VERSION,
            decisions_position=self.decisions_position,
            events=sums.measure("requests"),
            rows=rows,
            published_at_ms=self.now_ms,
        )
        return RecordedRun(record_run(self.store, header), header)

    def _show(self, hours: HourRange, headers: Mapping[int, RecordedRun]) -> None:
        """Make the view show each run; one row per run, of one hour the highest position wins."""
        shown = {row[0] for row in self.ledger.client.query(published_runs(hours)).result_rows}
        show_runs(
            self.ledger.client,
            (one for one in headers.values() if one.header.run_id not in shown),
        )


def show_runs(client: Client, runs: Iterable[RecordedRun]) -> None:
    """Make the roll-ups' view show runs; of one hour the highest position wins."""
    rows: list[Sequence[object]] = [
        [
            one.header.hour,
            one.header.run_id,
            one.position,
            one.header.digest,
            one.header.offsets,
            one.header.events,
            one.header.rows,
            utc(one.header.published_at_ms * NS_PER_MS),
        ]
        for one in runs
    ]
    if rows:
        client.insert(
            ROLLUP_RUNS.name,
            rows,
            column_names=ROLLUP_RUNS.column_names(),
            settings={"insert_deduplicate": 0},
        )


def _still_holds(header: RunHeader, sums: HourSums) -> bool:
    """Whether the run in force is the one that these events and today's rules would give."""
    return header.digest == sums.digest and header.rules_version == RULES_VERSION
