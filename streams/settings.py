"""The configuration of `streams`, and the only place that reads it; prefix RENTROLL_."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class StreamSettings(BaseSettings):
    """Every bound and grace time of ingest and of closing hours."""

    model_config = SettingsConfigDict(env_prefix="RENTROLL_", frozen=True, extra="ignore")

    ingest_group: str = Field(
        default="rentroll-ingest-1",
        min_length=1,
        max_length=128,
        description="consumer group; another name reads the whole log again",
    )
    ingest_rows: int = Field(
        default=20_000, ge=1, le=200_000, description="records of one insert, about"
    )
    ingest_bytes: int = Field(
        default=32 * 2**20, ge=2**20, le=2**30, description="decoded bytes of one insert, about"
    )
    ingest_quiet_ms: int = Field(
        default=400,
        ge=1,
        le=60_000,
        description="at the log's end without new records, after which to insert",
    )
    ingest_wait_ms: int = Field(
        default=3_000, ge=1, le=600_000, description="longest that a record waits for others"
    )
    ingest_fetch_bytes: int = Field(
        default=3 * 2**19,
        ge=2**16,
        le=2**26,
        description="of one fetch and partition, compressed; one record may exceed it",
    )
    ingest_buffered_batches: int = Field(
        default=2, ge=1, le=64, description="fetches of one topic that wait to be decoded, about"
    )
    ingest_decode_threads: int = Field(
        default=2, ge=1, le=64, description="partitions that are decoded at the same time"
    )
    ingest_parallel_inserts: int = Field(
        default=2, ge=1, le=64, description="inserts that one worker has open at the same time"
    )
    ingest_insert_timeout_s: int = Field(
        default=60,
        ge=1,
        le=3_600,
        description="after which an insert without an answer is sent again, by the same token",
    )
    ingest_retry_first_ms: int = Field(
        default=100, ge=1, le=60_000, description="wait before the first retry; doubles each time"
    )
    ingest_retry_last_ms: int = Field(
        default=5_000, ge=1, le=600_000, description="longest wait between retries; they never end"
    )
    ingest_grace_s: int = Field(
        default=20,
        ge=1,
        le=300,
        description="how long an insert may finish when its partition is taken away",
    )
    ingest_session_timeout_s: int = Field(
        default=45, ge=6, le=300, description="after which the group gives up a silent worker"
    )
    ingest_heartbeat_s: int = Field(default=3, ge=1, le=60, description="between signs of life")
    ingest_metadata_age_s: int = Field(
        default=60, ge=1, le=3_600, description="after which partitions that were added are found"
    )
    ingest_retention_check_s: int = Field(
        default=30, ge=1, le=3_600, description="between looks whether the log lost unread records"
    )
    ingest_grouped: bool = Field(
        default=False, description="slower transport that needs fewer private names of aiokafka"
    )
    ingest_report_s: int = Field(
        default=10, ge=1, le=3_600, description="between lines and files of statistics"
    )
    close_grace_s: int = Field(
        default=86_400,
        ge=0,
        description="an empty hour closes this long after its end while no source is known at all",
    )
    close_lookback_s: int = Field(
        default=86_400,
        ge=3_600,
        description="how long before its source opened a request may have been admitted",
    )
    close_batch_hours: int = Field(
        default=64, ge=1, le=744, description="hours that are rolled up and published together"
    )
    close_batch_events: int = Field(
        default=2_000_000,
        ge=1_000,
        description="events digested in one query; one hour may exceed it",
    )
    close_batch_intervals: int = Field(
        default=200_000,
        ge=1_000,
        description="engine intervals held in memory at once; one source may exceed it",
    )
    close_max_candidates: int = Field(
        default=1_024,
        ge=1,
        description="combinations tried to find which records of a range its source signed",
    )
    close_max_reasons: int = Field(
        default=20, ge=1, description="reasons spelt out for one held hour; the rest is counted"
    )
