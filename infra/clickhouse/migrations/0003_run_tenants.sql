-- What each tenant had in each run: the leaves of its Merkle tree over a period. Written with the
-- run's roll-up, from the same rows, under the same id.

CREATE TABLE IF NOT EXISTS run_tenants
(
    hour DateTime('UTC'),
    run_id FixedString(64),
    tenant LowCardinality(String),
    requests UInt64 CODEC(T64, ZSTD(1)),
    events UInt64 CODEC(T64, ZSTD(1)),
    digest FixedString(64) CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (hour, run_id, tenant)
SETTINGS non_replicated_deduplication_window = 10000;
