"""ClickHouse tables, declared once: ingest builds rows from it, a test holds migrations to it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """One column and its ClickHouse type, exactly as `system.columns` prints it."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table that we write. `transport` columns say how a row got there, not what happened."""

    name: str
    columns: tuple[Column, ...]
    order_by: tuple[str, ...]
    transport: tuple[str, ...] = ()

    def column_names(self) -> list[str]:
        """Names in the order of the table."""
        return [column.name for column in self.columns]


def _columns(*pairs: str) -> tuple[Column, ...]:
    return tuple(Column(*pair.split(" ", 1)) for pair in pairs)


_LC = "LowCardinality(String)"
_MS = "DateTime64(3, 'UTC')"
_ENVELOPE = (
    "source UUID",
    "sequence UInt32",
)
_TRANSPORT = ("topic", "kafka_partition", "kafka_offset")
_TRANSPORT_COLUMNS = (
    f"topic {_LC}",
    "kafka_partition UInt16",
    "kafka_offset UInt64",
)
_PART_COLUMNS = (
    "parts_engine Array(UUID)",
    "parts_ordinal Array(UInt32)",
    "parts_gpu_ns Array(Int64)",
    "parts_generated_tokens Array(Int64)",
    "parts_prompt_computed_tokens Array(Int64)",
    "parts_recomputed_tokens Array(Int64)",
    "parts_decode_scheduled_tokens Array(Int64)",
    "parts_drafts_rejected_tokens Array(Int64)",
    "parts_discarded_tokens Array(Int64)",
)

USAGE_EVENTS = Table(
    name="usage_events",
    columns=_columns(
        f"tenant {_LC}",
        f"event_time {_MS}",
        "event_id UUID",
        "content_hash FixedString(16)",
        *_ENVELOPE,
        f"project {_LC}",
        f"api_key {_LC}",
        "client_request_id String",
        "end_user String",
        f"model {_LC}",
        f"adapter {_LC}",
        f"endpoint {_LC}",
        f"service_tier {_LC}",
        f"region {_LC}",
        f"replica {_LC}",
        f"gpu_type {_LC}",
        "gpus UInt16",
        f"outcome {_LC}",
        f"finish_reason {_LC}",
        "http_status UInt16",
        f"finished_at {_MS}",
        "input_uncached_tokens Int64",
        "input_cache_read_tokens Int64",
        "input_cache_write_tokens Int64",
        "output_text_tokens Int64",
        "output_reasoning_tokens Int64",
        "generated_tokens Int64",
        "delivered_tokens Int64",
        "hidden_tokens Int64",
        "gpu_ns Int64",
        "gpu_prefill_ns Int64",
        "gpu_recompute_ns Int64",
        f"attribution_model {_LC}",
        "queue_ns Int64",
        "first_token_ns Int64",
        "total_ns Int64",
        *_PART_COLUMNS,
        *_TRANSPORT_COLUMNS,
    ),
    order_by=("tenant", "event_time", "event_id", "content_hash"),
    transport=_TRANSPORT,
)
ENGINE_PARTS = Table(
    name="engine_parts",
    columns=_columns(
        f"tenant {_LC}",
        f"event_time {_MS}",
        "event_id UUID",
        "content_hash FixedString(16)",
        *_ENVELOPE,
        "request UUID",
        "engine UUID",
        "ordinal UInt32",
        f"model {_LC}",
        f"replica {_LC}",
        f"gpu_type {_LC}",
        "gpus UInt16",
        f"region {_LC}",
        "gpu_ns Int64",
        "gpu_prefill_ns Int64",
        "gpu_recompute_ns Int64",
        "generated_tokens Int64",
        "prompt_computed_tokens Int64",
        "recomputed_tokens Int64",
        "decode_scheduled_tokens Int64",
        "drafts_rejected_tokens Int64",
        "discarded_tokens Int64",
        *_TRANSPORT_COLUMNS,
    ),
    order_by=("tenant", "event_time", "event_id", "content_hash"),
    transport=_TRANSPORT,
)
ENGINE_INTERVALS = Table(
    name="engine_intervals",
    columns=_columns(
        f"event_time {_MS}",
        "event_id UUID",
        "content_hash FixedString(16)",
        *_ENVELOPE,
        "engine UUID",
        f"model {_LC}",
        f"replica {_LC}",
        f"region {_LC}",
        f"gpu_type {_LC}",
        "gpus UInt16",
        "start_unix_ns Int64",
        "end_unix_ns Int64",
        "owned_ns Int64",
        "attributed_ns Int64",
        "stall_ns Int64",
        "idle_ns Int64",
        "overhead_ns Int64",
        "startup_ns Int64",
        "open_step_start_ns Int64",
        "open_step_end_ns Int64",
        "unaccounted_ns Int64",
        "in_flight_start_ns Int64",
        "in_flight_end_ns Int64",
        "ordinal_start UInt32",
        "ordinal_end UInt32",
        "tokens_scheduled Int64",
        "steps Int64",
        "running_requests Int64",
        "waiting_requests Int64",
        f"oldest_open_at {_MS}",
        "synthesized Bool",
        "range_first UInt32",
        "range_last UInt32",
        "range_sha256 String",
        "range_signature String",
        *_TRANSPORT_COLUMNS,
    ),
    order_by=("source", "sequence", "event_id", "content_hash"),
    transport=_TRANSPORT,
)
FLEET_EVENTS = Table(
    name="fleet_events",
    columns=_columns(
        f"type {_LC}",
        f"subject {_LC}",
        f"event_time {_MS}",
        "event_id UUID",
        "content_hash FixedString(16)",
        *_ENVELOPE,
        "data String",
        *_TRANSPORT_COLUMNS,
    ),
    order_by=("source", "sequence", "event_id", "content_hash"),
    transport=_TRANSPORT,
)
"""Everything rare: sources opened and closed, losses, capacity, reservations; `data` is JSON."""
DEAD_LETTER_ROWS = Table(
    name="dead_letters",
    columns=_columns(
        f"topic {_LC}",
        "kafka_partition UInt16",
        "kafka_offset UInt64",
        f"reason {_LC}",
        "detail String",
        "content_sha256 String",
        "value String",
        "source String",
        "sequence UInt32",
        "event_id String",
        f"tenant {_LC}",
    ),
    order_by=("topic", "kafka_partition", "kafka_offset"),
)
_ROLLUP_DIMENSIONS = (
    "hour DateTime('UTC')",
    "run_id FixedString(64)",
    f"tenant {_LC}",
    f"project {_LC}",
    f"api_key {_LC}",
    f"model {_LC}",
    f"adapter {_LC}",
    f"service_tier {_LC}",
    f"gpu_type {_LC}",
    f"region {_LC}",
    f"outcome {_LC}",
)
ROLLUP_KEY = tuple(pair.split(" ", 1)[0] for pair in _ROLLUP_DIMENSIONS)
ROLLUP_MEASURES = (
    "requests",
    "input_uncached_tokens",
    "input_cache_read_tokens",
    "input_cache_write_tokens",
    "output_text_tokens",
    "output_reasoning_tokens",
    "generated_tokens",
    "delivered_tokens",
    "hidden_tokens",
    "gpu_ns",
    "gpu_prefill_ns",
    "gpu_recompute_ns",
)
USAGE_HOURLY_RUNS = Table(
    name="usage_hourly_runs",
    columns=_columns(*_ROLLUP_DIMENSIONS, *(f"{measure} Int64" for measure in ROLLUP_MEASURES)),
    order_by=ROLLUP_KEY,
)
ROLLUP_RUNS = Table(
    name="rollup_runs",
    columns=_columns(
        "hour DateTime('UTC')",
        "run_id FixedString(64)",
        "position UInt32",
        "digest FixedString(64)",
        "offsets String",
        "events UInt64",
        "rows UInt32",
        "published_at DateTime64(6, 'UTC')",
    ),
    order_by=("hour", "position", "run_id"),
)
"""A run counts once it is here; of one hour the highest `position` is in force."""
RUN_TENANTS = Table(
    name="run_tenants",
    columns=_columns(
        "hour DateTime('UTC')",
        "run_id FixedString(64)",
        f"tenant {_LC}",
        "requests UInt64",
        "events UInt64",
        "digest FixedString(64)",
    ),
    order_by=("hour", "run_id", "tenant"),
)
"""What each tenant had in each run; a leaf of its period's tree."""
HOUR_FINDINGS = Table(
    name="hour_findings",
    columns=_columns(
        "hour DateTime('UTC')",
        "checked_at DateTime64(6, 'UTC')",
        "unsigned_events UInt64",
        "quarantined_events UInt64",
        "dropped_events UInt64",
    ),
    order_by=("hour",),
)
"""What the newest close of an hour set aside."""
TABLES = (
    USAGE_EVENTS,
    ENGINE_PARTS,
    ENGINE_INTERVALS,
    FLEET_EVENTS,
    DEAD_LETTER_ROWS,
    USAGE_HOURLY_RUNS,
    ROLLUP_RUNS,
    RUN_TENANTS,
    HOUR_FINDINGS,
)
