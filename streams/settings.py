"""The configuration of `streams`, and the only place that reads it; prefix RENTROLL_."""

from typing import Self

from pydantic import Field, SecretStr, model_validator
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
    archive_url: str | None = Field(
        default=None,
        description="folder, or s3://, gs://, az:// URL; unset: `archive` in the stack's folder",
    )
    archive_group: str = Field(
        default="rentroll-archive-1",
        min_length=1,
        max_length=128,
        description="consumer group that shares the partitions out among archivers",
    )
    archive_file_records: int = Field(
        default=200_000, ge=1, le=10_000_000, description="records of one file, about"
    )
    archive_file_bytes: int = Field(
        default=64 * 2**20, ge=2**16, le=2**29, description="keys and values of one file, about"
    )
    archive_buffer_bytes: int = Field(
        default=192 * 2**20,
        ge=2**20,
        le=2**34,
        description="keys and values that wait in memory, over all partitions",
    )
    archive_wait_s: int = Field(
        default=300, ge=1, le=86_400, description="longest that a record waits to be archived"
    )
    replay_rows: int = Field(
        default=50_000, ge=1, le=500_000, description="records of one insert of a replay, about"
    )
    replay_threads: int = Field(
        default=3, ge=1, le=64, description="batches that a replay decodes and inserts at once"
    )
    replay_skew_s: int = Field(
        default=86_400,
        ge=0,
        description="how far clocks may be apart when a replay leaves old records out",
    )
    ingest_metrics_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="of 127.0.0.1, for /metrics, /healthz and /readyz of a worker; 0: none",
    )
    ingest_ready_s: int = Field(
        default=30,
        ge=1,
        le=3_600,
        description="a worker is ready if broker, ledger and progress were seen within this time",
    )
    metrics_refresh_s: int = Field(
        default=60,
        ge=1,
        le=86_400,
        description="how often `rentroll metrics` asks ledger and store",
    )
    metrics_lookback_s: int = Field(
        default=3 * 86_400,
        ge=3_600,
        description="how far back `rentroll metrics` looks for holes; older ones hold their hour",
    )
    metrics_settle_s: int = Field(
        default=600,
        ge=0,
        description="a sequence younger than this may be on its way: it is no hole yet",
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
    close_clock_ahead_s: int = Field(
        default=300,
        ge=0,
        description="an event dated further ahead of now says that its host's clock is wrong",
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
    close_max_quarantined_events: int = Field(
        default=100_000,
        ge=1,
        description="contradicting events that one batch of hours sets aside; with more it is held",
    )
    close_max_reasons: int = Field(
        default=20, ge=1, description="reasons spelt out for one held hour; the rest is counted"
    )
    retention_events_days: int = Field(
        default=3_660,
        ge=31,
        description="requests, parts and intervals of a month are kept for so long after its end",
    )
    retention_rollups_days: int = Field(
        default=3_660, ge=31, description="the hourly roll-ups of a month, likewise"
    )
    retention_correctable_days: int = Field(
        default=400,
        ge=31,
        description="a period may be corrected for so long after its end; till then all is kept",
    )
    live_group: str = Field(
        default="rentroll-live-1",
        min_length=1,
        max_length=128,
        description="consumer group of live spend; how far it is stands in the billing store",
    )
    live_commit_ms: int = Field(
        default=200, ge=10, le=10_000, description="between commits of live spend, about"
    )
    live_pending_records: int = Field(
        default=20_000,
        ge=100,
        le=1_000_000,
        description="summed and not yet committed, per partition; more is not taken",
    )
    live_copies_within_records: int = Field(
        default=20_000,
        ge=0,
        le=10_000_000,
        description="a copy of an event counts once if it lies so close behind it",
    )
    live_prices_check_s: int = Field(
        default=5, ge=1, le=3_600, description="how often live spend looks for a newer price book"
    )
    live_correct_s: int = Field(
        default=10, ge=1, le=3_600, description="how often it looks for hours that were published"
    )
    live_minutes_kept_hours: int = Field(
        default=48, ge=1, le=8_760, description="how long windows of a minute are kept"
    )
    live_hours_kept_days: int = Field(
        default=70, ge=32, le=3_660, description="how long windows of an hour are kept"
    )
    budget_check_ms: int = Field(
        default=1_000, ge=100, le=60_000, description="how often budgets are held to their alerts"
    )
    budget_webhook_secret: SecretStr | None = Field(
        default=None,
        description="what alerts' signatures are derived from, 32 characters or more; unset: alerts"
        " are stored and not sent",
    )
    budget_webhook_timeout_s: int = Field(
        default=10, ge=1, le=120, description="how long a receiver of an alert may take"
    )
    budget_webhook_attempts: int = Field(
        default=10, ge=1, le=100, description="then an alert is given up; waits double from 5 s"
    )

    @model_validator(mode="after")
    def _keep_what_is_needed(self) -> Self:
        if self.retention_events_days < self.retention_correctable_days:
            raise ValueError(
                f"retention_events_days: {self.retention_events_days} is less than"
                f" retention_correctable_days {self.retention_correctable_days}: a correction rates"
                " a period from its events again"
            )
        if self.retention_rollups_days < self.retention_events_days:
            raise ValueError(
                f"retention_rollups_days: {self.retention_rollups_days} is less than"
                f" retention_events_days {self.retention_events_days}: roll-ups are what is billed"
            )
        return self
