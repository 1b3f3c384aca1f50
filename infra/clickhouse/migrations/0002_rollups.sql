-- Closed hours. Rows belong to a run; a run counts only once it is in rollup_runs, and of one
-- hour the run with the highest position is in force. Old runs stay: invoices name them.

CREATE TABLE IF NOT EXISTS usage_hourly_runs
(
    hour DateTime('UTC'),
    run_id FixedString(64),
    tenant LowCardinality(String),
    project LowCardinality(String),
    api_key LowCardinality(String),
    model LowCardinality(String),
    adapter LowCardinality(String),
    service_tier LowCardinality(String),
    gpu_type LowCardinality(String),
    region LowCardinality(String),
    outcome LowCardinality(String),
    requests Int64 CODEC(T64, ZSTD(1)),
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
    gpu_recompute_ns Int64 CODEC(T64, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, run_id, tenant, project, api_key, model, adapter, service_tier, gpu_type, region, outcome)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS rollup_runs
(
    hour DateTime('UTC'),
    run_id FixedString(64),
    position UInt32,
    digest FixedString(64),
    offsets String,
    events UInt64,
    rows UInt32,
    published_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (hour, position, run_id)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE VIEW IF NOT EXISTS usage_hourly AS
SELECT *
FROM usage_hourly_runs FINAL
WHERE (hour, run_id) IN (
    SELECT hour, argMax(run_id, position) FROM rollup_runs FINAL GROUP BY hour
);
