"""What every question about completeness needs: the ledger, how far it was read, small tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from infra.clickhouse.client import Client
from streams.completeness import SourceState
from streams.completeness_sql import BATCH, HOSTS, OFFSETS, REJECTED, SPANS
from streams.rollup_sql import Offsets
from streams.settings import StreamSettings

END_OF_TIME_MS = 4_102_444_800_000
"""2100-01-01, behind every event that the contracts let through."""


@dataclass(slots=True)
class Ledger:
    """What every question to the ledger needs: the client, and how far the log had been read."""

    client: Client
    offsets: Offsets
    settings: StreamSettings


def read_offsets(client: Client) -> Offsets:
    """The highest offset present in the ledger, plus one, per topic and partition.

    From the ledger itself and not from the consumer group: what was read is what is there, and
    it can be said again when the group is gone. That nothing below is missing is not taken from
    the offsets at all; the sources' sequences prove it.
    """
    rows = client.query(OFFSETS).result_rows
    return Offsets({(topic, partition): until for topic, partition, until in rows})


def batch_table(sources: Sequence[str]) -> tuple[str, list[tuple[str, int]]]:
    """The external table `batch`: sources, numbered."""
    return BATCH, [(source, number) for number, source in enumerate(sources)]


def hosts_table(states: Sequence[SourceState]) -> tuple[str, list[tuple[str, int]]]:
    """The external table `hosts`: a number per host."""
    numbers = {host: number for number, host in enumerate(sorted({one.host for one in states}))}
    return HOSTS, [(one.source, numbers[one.host]) for one in states]


def spans_table(states: Sequence[SourceState]) -> tuple[str, list[tuple[str, int, int]]]:
    """The external table `spans`: what is proven."""
    rows = [(one.source, first, last) for one in states for first, last in one.findings.spans]
    return SPANS, rows


def rejected_table(states: Sequence[SourceState]) -> tuple[str, list[tuple[str]]]:
    """The external table `rejected`: records beside the one that the source signed."""
    hashes = {one.hex().upper() for state in states for one in state.findings.rejected}
    return REJECTED, [(one,) for one in sorted(hashes)]
