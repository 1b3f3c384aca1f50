-- The ledger: every event once, and its copies beside it until they merge.
-- A row's sort key ends in its content hash: identical copies collapse, copies that differ in
-- anything both stay visible. Always read with FINAL.

CREATE TABLE IF NOT EXISTS usage_events
(
    tenant LowCardinality(String),
    event_time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    event_id UUID CODEC(ZSTD(1)),
    content_hash FixedString(16) CODEC(NONE),
    source UUID CODEC(ZSTD(1)),
    sequence UInt32 CODEC(Delta(4), ZSTD(1)),
    project LowCardinality(String),
    api_key LowCardinality(String),
    client_request_id String CODEC(ZSTD(1)),
    end_user String CODEC(ZSTD(1)),
    model LowCardinality(String),
    adapter LowCardinality(String),
    endpoint LowCardinality(String),
    service_tier LowCardinality(String),
    region LowCardinality(String),
    replica LowCardinality(String),
    gpu_type LowCardinality(String),
    gpus UInt16 CODEC(ZSTD(1)),
    outcome LowCardinality(String),
    finish_reason LowCardinality(String),
    http_status UInt16 CODEC(ZSTD(1)),
    finished_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    input_uncached_tokens Int64 CODEC(T64, ZSTD(1)),
    input_cache_read_tokens Int64 CODEC(T64, ZSTD(1)),
    input_cache_write_tokens Int64 CODEC(T64, ZSTD(1)),
    output_text_tokens Int64 CODEC(T64, ZSTD(1)),
    output_reasoning_tokens Int64 CODEC(T64, ZSTD(1)),
    generated_tokens Int64 CODEC(T64, ZSTD(1)),
    delivered_tokens Int64 CODEC(T64, ZSTD(1)),
    hidden_tokens Int64 CODEC(T64, ZSTD(1)),
    gpu_ns Int64 CODEC(T64, ZSTD(1)),
    gpu_prefill_ns Int64 CODEC(T64, ZSTD(1)),
    gpu_recompute_ns Int64 CODEC(T64, ZSTD(1)),
    attribution_model LowCardinality(String),
    queue_ns Int64 CODEC(T64, ZSTD(1)),
    first_token_ns Int64 CODEC(T64, ZSTD(1)),
    total_ns Int64 CODEC(T64, ZSTD(1)),
    parts_engine Array(UUID) CODEC(ZSTD(1)),
    parts_ordinal Array(UInt32) CODEC(ZSTD(1)),
    parts_gpu_ns Array(Int64) CODEC(ZSTD(1)),
    parts_generated_tokens Array(Int64) CODEC(ZSTD(1)),
    parts_prompt_computed_tokens Array(Int64) CODEC(ZSTD(1)),
    parts_recomputed_tokens Array(Int64) CODEC(ZSTD(1)),
    parts_decode_scheduled_tokens Array(Int64) CODEC(ZSTD(1)),
    parts_drafts_rejected_tokens Array(Int64) CODEC(ZSTD(1)),
    parts_discarded_tokens Array(Int64) CODEC(ZSTD(1)),
    topic LowCardinality(String),
    kafka_partition UInt16 CODEC(ZSTD(1)),
    kafka_offset UInt64 CODEC(Delta(8), ZSTD(1)),
    CONSTRAINT time_is_the_ids CHECK event_time = UUIDv7ToDateTime(event_id, 'UTC')
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, event_time)
ORDER BY (tenant, event_time, event_id, content_hash)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS engine_parts
(
    tenant LowCardinality(String),
    event_time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    event_id UUID CODEC(ZSTD(1)),
    content_hash FixedString(16) CODEC(NONE),
    source UUID CODEC(ZSTD(1)),
    sequence UInt32 CODEC(Delta(4), ZSTD(1)),
    request UUID CODEC(ZSTD(1)),
    engine UUID CODEC(ZSTD(1)),
    ordinal UInt32 CODEC(Delta(4), ZSTD(1)),
    model LowCardinality(String),
    replica LowCardinality(String),
    gpu_type LowCardinality(String),
    gpus UInt16 CODEC(ZSTD(1)),
    region LowCardinality(String),
    gpu_ns Int64 CODEC(T64, ZSTD(1)),
    gpu_prefill_ns Int64 CODEC(T64, ZSTD(1)),
    gpu_recompute_ns Int64 CODEC(T64, ZSTD(1)),
    generated_tokens Int64 CODEC(T64, ZSTD(1)),
    prompt_computed_tokens Int64 CODEC(T64, ZSTD(1)),
    recomputed_tokens Int64 CODEC(T64, ZSTD(1)),
    decode_scheduled_tokens Int64 CODEC(T64, ZSTD(1)),
    drafts_rejected_tokens Int64 CODEC(T64, ZSTD(1)),
    discarded_tokens Int64 CODEC(T64, ZSTD(1)),
    topic LowCardinality(String),
    kafka_partition UInt16 CODEC(ZSTD(1)),
    kafka_offset UInt64 CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (tenant, event_time)
ORDER BY (tenant, event_time, event_id, content_hash)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS engine_intervals
(
    event_time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    event_id UUID CODEC(ZSTD(1)),
    content_hash FixedString(16) CODEC(NONE),
    source UUID CODEC(ZSTD(1)),
    sequence UInt32 CODEC(Delta(4), ZSTD(1)),
    engine UUID CODEC(ZSTD(1)),
    model LowCardinality(String),
    replica LowCardinality(String),
    region LowCardinality(String),
    gpu_type LowCardinality(String),
    gpus UInt16 CODEC(ZSTD(1)),
    start_unix_ns Int64 CODEC(Delta(8), ZSTD(1)),
    end_unix_ns Int64 CODEC(Delta(8), ZSTD(1)),
    owned_ns Int64 CODEC(T64, ZSTD(1)),
    attributed_ns Int64 CODEC(T64, ZSTD(1)),
    stall_ns Int64 CODEC(T64, ZSTD(1)),
    idle_ns Int64 CODEC(T64, ZSTD(1)),
    overhead_ns Int64 CODEC(T64, ZSTD(1)),
    startup_ns Int64 CODEC(T64, ZSTD(1)),
    open_step_start_ns Int64 CODEC(T64, ZSTD(1)),
    open_step_end_ns Int64 CODEC(T64, ZSTD(1)),
    unaccounted_ns Int64 CODEC(T64, ZSTD(1)),
    in_flight_start_ns Int64 CODEC(T64, ZSTD(1)),
    in_flight_end_ns Int64 CODEC(T64, ZSTD(1)),
    ordinal_start UInt32 CODEC(Delta(4), ZSTD(1)),
    ordinal_end UInt32 CODEC(Delta(4), ZSTD(1)),
    tokens_scheduled Int64 CODEC(T64, ZSTD(1)),
    steps Int64 CODEC(T64, ZSTD(1)),
    running_requests Int64 CODEC(T64, ZSTD(1)),
    waiting_requests Int64 CODEC(T64, ZSTD(1)),
    oldest_open_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    synthesized Bool,
    range_first UInt32 CODEC(Delta(4), ZSTD(1)),
    range_last UInt32 CODEC(Delta(4), ZSTD(1)),
    range_sha256 String CODEC(ZSTD(1)),
    range_signature String CODEC(ZSTD(1)),
    topic LowCardinality(String),
    kafka_partition UInt16 CODEC(ZSTD(1)),
    kafka_offset UInt64 CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (source, sequence)
ORDER BY (source, sequence, event_id, content_hash)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS fleet_events
(
    type LowCardinality(String),
    subject LowCardinality(String),
    event_time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    event_id UUID CODEC(ZSTD(1)),
    content_hash FixedString(16) CODEC(NONE),
    source UUID CODEC(ZSTD(1)),
    sequence UInt32 CODEC(Delta(4), ZSTD(1)),
    data String CODEC(ZSTD(3)),
    topic LowCardinality(String),
    kafka_partition UInt16 CODEC(ZSTD(1)),
    kafka_offset UInt64 CODEC(Delta(8), ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(event_time)
PRIMARY KEY (source, sequence)
ORDER BY (source, sequence, event_id, content_hash)
SETTINGS non_replicated_deduplication_window = 10000;

-- Refused records. The key is where the record lay, so reading it twice changes nothing.
CREATE TABLE IF NOT EXISTS dead_letters
(
    topic LowCardinality(String),
    kafka_partition UInt16,
    kafka_offset UInt64,
    reason LowCardinality(String),
    detail String CODEC(ZSTD(3)),
    content_sha256 String CODEC(ZSTD(1)),
    value String CODEC(ZSTD(6)),
    source String,
    sequence UInt32,
    event_id String,
    tenant LowCardinality(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, kafka_partition, kafka_offset)
SETTINGS non_replicated_deduplication_window = 10000;
