-- What the newest close of each hour set aside and did not bill. It is what alarms look at: to find
-- it again takes a close. Derived, like everything here: the next close writes it anew.

CREATE TABLE IF NOT EXISTS hour_findings
(
    hour DateTime('UTC'),
    checked_at DateTime64(6, 'UTC'),
    unsigned_events UInt64 CODEC(T64, ZSTD(1)),
    quarantined_events UInt64 CODEC(T64, ZSTD(1)),
    dropped_events UInt64 CODEC(T64, ZSTD(1))
)
ENGINE = ReplacingMergeTree(checked_at)
ORDER BY hour
SETTINGS non_replicated_deduplication_window = 10000;
