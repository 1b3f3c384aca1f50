"""What a simulation emitted, counted where it happened, not read back from the bytes."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from inference.engine_account import Interval
from schemas.usage import TOKEN_METERS

TIME_FIELDS = (
    "owned_ns",
    "attributed_ns",
    "stall_ns",
    "idle_ns",
    "overhead_ns",
    "startup_ns",
    "open_step_start_ns",
    "open_step_end_ns",
)


@dataclass(frozen=True, slots=True)
class EmittedSource:
    """A source that spoke, as the billing store is to know it."""

    source: str
    host: str
    public_key: str
    events: int


@dataclass(slots=True)
class Counts:
    """Totals of one replica or of all; they add up with `add`."""

    requests: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKEN_METERS, 0))
    gpu_ns: int = 0
    intervals: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    time: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TIME_FIELDS, 0))
    records: int = 0
    value_bytes: int = 0

    def count_request(self, outcome: str, gpu_ns: int, tokens: tuple[int, ...]) -> None:
        """Add one finished request; `tokens` are in the order of `TOKEN_METERS`."""
        self.requests += 1
        self.gpu_ns += gpu_ns
        so_far = self.tokens
        for meter, count in zip(TOKEN_METERS, tokens, strict=True):
            if count:
                so_far[meter] += count
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def count_interval(self, interval: Interval) -> None:
        """Add one engine interval."""
        self.intervals += 1
        for name in TIME_FIELDS:
            self.time[name] += getattr(interval, name)

    def add(self, other: "Counts") -> None:
        """Add another's totals."""
        self.requests += other.requests
        self.gpu_ns += other.gpu_ns
        self.intervals += other.intervals
        self.records += other.records
        self.value_bytes += other.value_bytes
        for mine, others in (
            (self.tokens, other.tokens),
            (self.outcomes, other.outcomes),
            (self.time, other.time),
        ):
            for name, amount in others.items():
                mine[name] = mine.get(name, 0) + amount

    def unexplained_ns(self) -> int:
        """Owned GPU time minus where it went; 0, or an alarm rings."""
        time = self.time
        return (
            time["owned_ns"]
            - time["attributed_ns"]
            - time["stall_ns"]
            - time["idle_ns"]
            - time["overhead_ns"]
            - time["startup_ns"]
            - time["open_step_end_ns"]
            + time["open_step_start_ns"]
        )


@dataclass(frozen=True, slots=True)
class Emitted:
    """The outcome of a simulation: totals, who spoke, and the folder that holds the outboxes.

    `events` counts `request.finished`; `records` in `counts` counts every event of every kind.
    """

    folder: Path
    run_key: str
    counts: Counts
    sources: tuple[EmittedSource, ...]
    report: dict[str, object]
    seconds: float

    @property
    def events(self) -> int:
        """`request.finished` events."""
        return self.counts.requests

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens by meter."""
        return self.counts.tokens

    @property
    def gpu_ns(self) -> int:
        """GPU-ns attributed to requests."""
        return self.counts.gpu_ns

    def as_json(self) -> dict[str, object]:
        """The report that `rentroll simulate --report` writes."""
        return {
            "run": self.run_key,
            **self.report,
            "events": self.events,
            "tokens": self.tokens,
            "gpu_ns": self.gpu_ns,
            "intervals": self.counts.intervals,
            "outcomes": self.counts.outcomes,
            "gpu_time": {**self.counts.time, "unexplained_ns": self.counts.unexplained_ns()},
            "records": self.counts.records,
            "value_bytes": self.counts.value_bytes,
            "sources": [asdict(source) for source in self.sources],
            "seconds": round(self.seconds, 3),
        }
