-- Numbers of parts are packed by their range like those of requests, and short names by more than the
-- server's default. What is stored already is packed when it is merged.

ALTER TABLE usage_events
    MODIFY COLUMN IF EXISTS parts_ordinal Array(UInt32) CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS parts_gpu_ns Array(Int64) CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS parts_generated_tokens Array(Int64) CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS parts_prompt_computed_tokens Array(Int64) CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS parts_recomputed_tokens Array(Int64) CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS parts_decode_scheduled_tokens Array(Int64) CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS parts_drafts_rejected_tokens Array(Int64) CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS parts_discarded_tokens Array(Int64) CODEC(T64, ZSTD(1)),
    MODIFY COLUMN IF EXISTS service_tier LowCardinality(String) CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS replica LowCardinality(String) CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS project LowCardinality(String) CODEC(ZSTD(1)),
    MODIFY COLUMN IF EXISTS api_key LowCardinality(String) CODEC(ZSTD(1));
