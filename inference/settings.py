"""The only configuration of `inference`; every name has the prefix RENTROLL_INFERENCE_."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.units import SEQUENCE_MAX

MIB = 1024 * 1024


class InferenceSettings(BaseSettings):
    """How engines are metered and how their events leave the host."""

    model_config = SettingsConfigDict(env_prefix="RENTROLL_INFERENCE_", frozen=True, extra="ignore")

    attribution: Literal[
        "fixed_marginal", "fixed_marginal.1", "calibrated", "token_share", "equal"
    ] = Field(
        default="fixed_marginal", description="how a step's GPU time is split over its requests"
    )
    calibration_file: Path | None = Field(
        default=None,
        description="profile of the engine for `calibrated`; `rentroll calibrate` makes it",
    )
    recorded_steps_folder: Path | None = Field(
        default=None, description="where engines record their steps, for replays; unset: nowhere"
    )
    recorded_steps_max_bytes: int = Field(
        default=1_024 * MIB, ge=65_536, description="a recording ends there, per engine"
    )
    step_cap_ns: int = Field(
        default=5_000_000_000,
        ge=1_000_000,
        description="what one step may take; the rest is stall, the operator's cost",
    )
    interval_s: int = Field(
        default=10, ge=1, le=3_600, description="longest engine interval while requests run"
    )
    queued_steps: int = Field(
        default=16,
        ge=1,
        le=1_024,
        description="so many steps are accounted for at once, and whatever is left every `mark_ms`",
    )
    spool_segment_bytes: int = Field(
        default=8 * MIB, ge=4_096, description="a new segment file begins after this many"
    )
    spool_max_bytes: int = Field(
        default=1_024 * MIB, ge=65_536, description="bound of the spool on disk, per writer"
    )
    spool_when_full: Literal["refuse", "count"] = Field(
        default="refuse",
        description="a full spool refuses new work, or counts what it drops and says so",
    )
    spool_fsync: Literal["always", "interval", "never"] = Field(
        default="interval", description="what a power cut may cost: nothing, a window, all"
    )
    spool_fsync_interval_ms: int = Field(
        default=200, ge=1, le=60_000, description="the window of the policy `interval`"
    )
    spool_unwritten_records: int = Field(
        default=100_000,
        ge=1,
        description="records that wait in memory while the disk refuses them, per engine",
    )
    outbox_batch_records: int = Field(
        default=16_384, ge=1, le=100_000, description="records per transaction of the outbox"
    )
    outbox_max_bytes: int = Field(
        default=16_384 * MIB,
        ge=65_536,
        description="unpublished bytes at which the outbox stops reading the spool",
    )
    source_max_records: int = Field(
        default=SEQUENCE_MAX // 2,
        ge=1,
        le=SEQUENCE_MAX,
        description="a source with so many is followed by another, once its host's processes ended",
    )
    publish_in_flight_records: int = Field(
        default=20_000, ge=1, le=1_000_000, description="sent to Kafka and not yet acknowledged"
    )
    publish_in_flight_bytes: int = Field(
        default=64 * MIB, ge=1_048_576, description="bound on the same, in bytes"
    )
    publish_stuck_s: int = Field(
        default=60,
        ge=1,
        le=3_600,
        description="age of the oldest unacknowledged record at which the producer is rebuilt",
    )
    publish_timeout_s: int = Field(
        default=600,
        ge=1,
        le=86_400,
        description="without any acknowledgement for this long, publishing gives up with an error",
    )
    host_folder: Path = Field(
        default=Path(".rentroll/inference"),
        description="spools of this host's processes, and the sidecar's outbox",
    )
    cache_folder: Path = Field(
        default=Path("~/.cache/rentroll"), description="of this user: installed engines and models"
    )
    region: str = Field(default="local", min_length=1, description="where this host stands")
    replica: str = Field(
        default="", description="name of this engine's replica; empty: host name and rank"
    )
    gpu_type: str = Field(
        default="", description="what the engine runs on; empty: what vLLM says of the device"
    )
    bandwidth_bytes_per_s: int = Field(
        default=0, ge=0, description="memory bandwidth of one GPU; 0: by `gpu_type`"
    )
    peak_flops_per_s: int = Field(
        default=0, ge=0, description="peak arithmetic of one GPU; 0: by `gpu_type`"
    )
    mark_ms: int = Field(
        default=1_000,
        ge=10,
        le=60_000,
        description="how often a process writes down that it lives, and what is open",
    )
    late_parts_ms: int = Field(
        default=500,
        ge=0,
        le=600_000,
        description="how long after a door's last word an engine may still begin its request",
    )
    drain_s: int = Field(
        default=60,
        ge=1,
        description="how long a sidecar that is stopped waits for its host's processes, and Kafka",
    )
    remember_s: int = Field(
        default=3_600,
        ge=1,
        description="how long the sidecar knows whose a finished request was, for late parts",
    )
    simulate_workers: int = Field(
        default=0, ge=0, le=256, description="processes that simulate replicas; 0: one per core"
    )
    door_keys_file: Path = Field(
        default=Path(".rentroll/inference/door-keys.json"), description="the snapshot of API keys"
    )
    door_keys_check_ms: int = Field(
        default=500, ge=10, le=10_000, description="how often the snapshot is looked at"
    )
    door_keys_max_age_s: int = Field(
        default=3_600, ge=1, le=604_800, description="an older snapshot admits nobody"
    )
    door_keys_refresh_s: int = Field(
        default=5,
        ge=0,
        le=3_600,
        description="how often the sidecar writes the snapshot; 0: `rentroll keys export` does",
    )
    door_max_body_bytes: int = Field(
        default=32 * MIB, ge=1_024, description="a longer request body is refused"
    )
    door_body_timeout_s: int = Field(
        default=60, ge=1, le=3_600, description="a request body that takes longer is refused"
    )
    door_api_workers: int = Field(
        default=1,
        ge=1,
        le=1_024,
        description="processes that share the rate limits; each grants its part of them",
    )
    door_priority_scheduling: bool = Field(
        default=False,
        description="the engine schedules by priority; otherwise no tier is above standard",
    )
    door_keep_labels: bool = Field(
        default=False,
        description="tell the billing store which label each end user's pseudonym stands for",
    )
    door_share_prefix_cache: bool = Field(
        default=False, description="one prefix cache for all tenants, who can then time each other"
    )
    door_spans: bool = Field(
        default=False,
        description="the door says on OpenTelemetry spans whose request it was and what it used",
    )
    door_backlog_records: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="records kept in memory while the spool cannot be written",
    )
    admission_url: str = Field(
        default="",
        description="where `rentroll admission` answers; empty: budgets are not looked at",
    )
    admission_token_file: Path | None = Field(
        default=None, description="what the door shows there; unset: nothing"
    )
    admission_timeout_ms: int = Field(
        default=50, ge=1, le=10_000, description="how long the door waits for its answer"
    )
    admission_when_away: Literal["serve", "refuse"] = Field(
        default="serve",
        description="without an answer; who pays before is refused either way",
    )
    admission_connections: int = Field(
        default=64, ge=1, le=4_096, description="that one API server process keeps open to it"
    )
    admission_context_tokens: int = Field(
        default=131_072,
        ge=1,
        description="the model's context: what a request without max_tokens may generate",
    )
    admission_template_tokens: int = Field(
        default=2_048, ge=0, description="that a chat template may add to a prompt"
    )
    serve_start_timeout_s: int = Field(
        default=1_800, ge=1, le=86_400, description="how long vLLM may take until it serves"
    )
    serve_drain_s: int = Field(
        default=60,
        ge=1,
        le=86_400,
        description="how long `serve-model`, when it is stopped, lets running requests finish",
    )

    def as_environment(self) -> dict[str, str]:
        """These settings as variables, for a process that reads them; folders in full."""
        variables = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None:
                continue
            text = str(value.expanduser().absolute() if isinstance(value, Path) else value)
            variables[f"RENTROLL_INFERENCE_{name.upper()}"] = text
        return variables
