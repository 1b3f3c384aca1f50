"""SQL over the ledger: what is proven, seen below an offset vector, collapsed to one copy."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import ContractError
from schemas.tables import ROLLUP_KEY, ROLLUP_MEASURES
from schemas.topics import TOPICS

_DIMENSIONS = ROLLUP_KEY[2:]
_USAGE_MEASURES = ROLLUP_MEASURES[1:]
_PART_MEASURES = ("gpu_ns", "gpu_prefill_ns", "gpu_recompute_ns")
_TOPIC_NAMES = frozenset(topic.name for topic in TOPICS)

DIGEST = "lower(hex(SHA256(unhex(arrayStringConcat(arraySort(groupArray(hex(content_hash))))))))"
"""`schemas.ids.digest_of_hashes` in ClickHouse, over hex because text loses trailing zero bytes."""


@dataclass(frozen=True, slots=True)
class Offsets:
    """An offset vector: by topic and partition the first offset that is *not* read."""

    until: Mapping[tuple[str, int], int]

    def condition(self) -> str:
        """As SQL, for PREWHERE.

        It must hold before copies collapse: else a later copy that stands for an event would
        take the event out of what was read.
        """
        terms = []
        for topic in sorted({topic for topic, _ in self.until}):
            if topic not in _TOPIC_NAMES:
                raise ContractError(f"the ledger holds rows of an unknown topic: {topic!r}")
            ends = sorted((part, end) for (one, part), end in self.until.items() if one == topic)
            numbers = ", ".join(f"toUInt16({partition})" for partition, _ in ends)
            limits = ", ".join(f"toUInt64({end})" for _, end in ends)
            terms.append(
                f"(topic = '{topic}' AND kafka_offset <"
                f" transform(kafka_partition, [{numbers}], [{limits}], toUInt64(0)))"
            )
        return f"({' OR '.join(terms)})" if terms else "0"

    def named(self) -> dict[str, int]:
        """As `topic/partition` to offset, sorted: how a run's header keeps it."""
        return {f"{topic}/{part}": end for (topic, part), end in sorted(self.until.items())}


@dataclass(frozen=True, slots=True)
class HourRange:
    """Whole hours `[first_ms, end_ms)`, in milliseconds since the epoch."""

    first_ms: int
    end_ms: int

    def condition(self) -> str:
        """As SQL on `event_time`."""
        return (
            f"event_time >= fromUnixTimestamp64Milli({self.first_ms}, 'UTC')"
            f" AND event_time < fromUnixTimestamp64Milli({self.end_ms}, 'UTC')"
        )


def proven(table: str, columns: str, offsets: Offsets, hours: HourRange, also: str = "1") -> str:
    """Rows of `table` that their source signed, one copy each, and that meet `also`.

    Needs the external tables `spans` (source, first, last) and `rejected` (hash).
    """
    return (
        f"SELECT {columns} FROM {table} FINAL"
        " INNER JOIN spans ON spans.span_source = source"
        f" PREWHERE {offsets.condition()}"
        f" WHERE {hours.condition()}"
        " AND sequence >= spans.first AND sequence <= spans.last"
        f" AND hex(content_hash) NOT IN (SELECT hash FROM rejected) AND {also}"
    )


def billable(offsets: Offsets, hours: HourRange) -> str:
    """Everything that is rolled up: requests, and parts from other hosts at their request.

    A part adds its GPU time only: the tokens it generated are in its request's counters already,
    which the door counted.
    """
    hour = "toStartOfHour(event_time, 'UTC') AS hour"
    requests = proven(
        "usage_events",
        f"{hour}, {', '.join(_DIMENSIONS)}, content_hash, toInt64(1) AS requests,"
        f" {', '.join(_USAGE_MEASURES)}",
        offsets,
        hours,
    )
    owners = proven("usage_events", f"event_id, {', '.join(_DIMENSIONS)}", offsets, hours)
    parts = proven(
        "engine_parts",
        f"{hour}, request, content_hash, {', '.join(_PART_MEASURES)}",
        offsets,
        hours,
    )
    measures = ", ".join(
        f"parts.{name} AS {name}" if name in _PART_MEASURES else f"toInt64(0) AS {name}"
        for name in ROLLUP_MEASURES
    )
    dimensions = ", ".join(f"owners.{name} AS {name}" for name in _DIMENSIONS)
    return (
        f"{requests} UNION ALL SELECT parts.hour AS hour, {dimensions},"
        f" parts.content_hash AS content_hash, {measures}"
        f" FROM ({parts}) AS parts INNER JOIN ({owners}) AS owners"
        " ON owners.event_id = parts.request"
    )


def insert_tenants(offsets: Offsets, hours: HourRange) -> str:
    """Writes what each tenant had in each run; needs the external table `runs` too."""
    return (
        "INSERT INTO run_tenants (hour, run_id, tenant, requests, events, digest)"
        f" SELECT hour, runs.run_id, tenant, sum(requests), count(), {DIGEST}"
        f" FROM ({billable(offsets, hours)}) AS billable"
        " INNER JOIN runs ON toUInt32(billable.hour) = runs.run_hour_s"
        " GROUP BY hour, runs.run_id, tenant"
    )


def tenant_hashes(offsets: Offsets, hours: HourRange) -> str:
    """Sorted content hashes of one tenant's rolled-up events by hour, as hex."""
    return (
        "SELECT toUnixTimestamp(hour) * 1000, arraySort(groupArray(lower(hex(content_hash))))"
        f" FROM ({billable(offsets, hours)}) WHERE tenant = {{tenant:String}} GROUP BY hour"
    )


def insert_rollup(offsets: Offsets, hours: HourRange) -> str:
    """Writes the roll-up rows of several hours; needs the external table `runs` too.

    One block, so that the insert is whole or not there.
    """
    columns = ", ".join((*ROLLUP_KEY, *ROLLUP_MEASURES))
    dimensions = ", ".join(_DIMENSIONS)
    measures = ", ".join(f"sum({name})" for name in ROLLUP_MEASURES)
    return (
        f"INSERT INTO usage_hourly_runs ({columns})"
        f" SELECT hour, runs.run_id, {dimensions}, {measures}"
        f" FROM ({billable(offsets, hours)}) AS billable"
        " INNER JOIN runs ON toUInt32(billable.hour) = runs.run_hour_s"
        f" GROUP BY hour, runs.run_id, {dimensions}"
    )
