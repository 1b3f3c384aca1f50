"""The configuration of `streams`, and the only place that reads it; prefix RENTROLL_."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class StreamSettings(BaseSettings):
    """Every bound and grace time of ingest and of closing hours."""

    model_config = SettingsConfigDict(env_prefix="RENTROLL_", frozen=True, extra="ignore")

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
