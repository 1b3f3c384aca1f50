"""Decides which hours are complete, from what is proven of every source: pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from schemas.ids import format_ms
from schemas.units import MS_PER_HOUR
from streams.completeness_engines import TimeLine
from streams.completeness_ranges import Problem, RangeFindings


@dataclass(frozen=True, slots=True)
class Watermark:
    """A proven interval: every event older than `oldest_open_ms` has a lower sequence."""

    sequence: int
    oldest_open_ms: int


@dataclass(slots=True)
class SourceState:
    """What is proven of one registered source.

    `opened_ms` is None where nothing of the source was seen at all. `final_sequence` is None
    until a validly signed `source.closed` is there, or a person declared that the source is gone:
    then `is_gone`, and it is the first sequence that is lost. `watermarks` ascend in both figures;
    one per hour that they pass is enough. `problems` ascend by sequence. `lost_notices` are the
    sequence and the number of requests of each `usage.lost`. `clock_alarms` say where the host's
    clock was wrong; they hold nothing, for an event's hour is its id's, whatever the time was.
    `beyond_trust` is where a source whose key was revoked would have gone on.
    """

    source: str
    host: str
    registered_ms: int
    opened_ms: int | None = None
    final_sequence: int | None = None
    closed_ms: int | None = None
    watermarks: list[Watermark] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    findings: RangeFindings = field(default_factory=RangeFindings)
    time_lines: dict[str, TimeLine] = field(default_factory=dict)
    unsigned_ranges: int = 0
    lost_notices: list[tuple[int, int]] = field(default_factory=list)
    is_gone: bool = False
    clock_alarms: list[str] = field(default_factory=list)
    beyond_trust: list[int] = field(default_factory=list)

    def replicas(self) -> list[str]:
        """The replicas that its engines served."""
        return sorted({line.replica for line in self.time_lines.values()})

    def lost_requests(self) -> int:
        """Requests that the source itself says it served and could not record."""
        return sum(
            requests
            for sequence, requests in self.lost_notices
            if any(first <= sequence <= last for first, last in self.findings.spans)
        )

    def expected(self) -> int:
        """How many sequences should be there: up to the final one, else up to the last seen."""
        return self.final_sequence or self.findings.last_seen

    def watermark_ms(self) -> int | None:
        """The low watermark as it stands."""
        return self.watermarks[-1].oldest_open_ms if self.watermarks else None


@dataclass(frozen=True, slots=True)
class HourFindings:
    """What the ledger holds in one hour, apart from the sources.

    `orphans` are requests whose parts are there without them. `crowded` says that more events
    contradict themselves than one close may set aside.
    """

    hour_ms: int
    orphans: Sequence[str] = ()
    crowded: bool = False


@dataclass(frozen=True, slots=True)
class Patience:
    """When an hour may close although no source at all is known, and how many reasons are told.

    `any_source` says that some source has opened, whenever that was: then silence means idle.
    """

    now_ms: int
    grace_ms: int
    max_reasons: int
    any_source: bool


def reasons_to_hold(
    sources: Iterable[SourceState], hour: HourFindings, patience: Patience
) -> list[str]:
    """Why the hour cannot be published; nothing where it is complete.

    An hour is complete when every source opened before its end is either closed or has a low
    watermark at or past its end, and everything that the source sent up to there is proven.
    """
    end_ms = hour.hour_ms + MS_PER_HOUR
    reasons: list[str] = []
    for source in sources:
        reasons += [f"{_named(source)}: {text}" for text in _source_reasons(source, end_ms)]
    if not patience.any_source and end_ms + patience.grace_ms > patience.now_ms:
        reasons.append(
            "no source is known, and the hour ended less than"
            f" {patience.grace_ms // MS_PER_HOUR} h ago"
        )
    if hour.crowded:
        reasons.append(
            "too many events are there with different contents: settle some, by `rentroll"
            " quarantine resolve --signed`, or raise RENTROLL_CLOSE_MAX_QUARANTINED_EVENTS"
        )
    reasons += [f"parts of request {one} are there without the request" for one in hour.orphans]
    if len(reasons) > patience.max_reasons:
        more = len(reasons) - patience.max_reasons
        reasons = [*reasons[: patience.max_reasons], f"and {more} more reasons"]
    return reasons


def needed_sequence(source: SourceState, end_ms: int) -> int | None:
    """The sequence below which every event older than `end_ms` lies; None while unknown."""
    for watermark in source.watermarks:
        if watermark.oldest_open_ms >= end_ms:
            return watermark.sequence
    return source.final_sequence


def _source_reasons(source: SourceState, end_ms: int) -> list[str]:
    if source.opened_ms is None:
        if source.registered_ms < end_ms and not source.is_gone:
            return [f"registered at {format_ms(source.registered_ms)}, but nothing of it is here"]
        return []
    if source.opened_ms >= end_ms:
        return []
    needed = needed_sequence(source, end_ms)
    proven_until = needed if needed is not None else source.findings.last_seen
    texts = [one.text for one in source.problems if one.sequence <= proven_until]
    if needed is None:
        watermark_ms = source.watermark_ms()
        reached = "has no proven interval" if watermark_ms is None else format_ms(watermark_ms)
        texts.append(
            f"still open, its low watermark ({reached}) is before the hour's end"
            f" {format_ms(end_ms)}"
        )
    return texts


def crossing_watermarks(candidates: Iterable[Watermark]) -> list[Watermark]:
    """Of many watermarks the few that pass a whole hour first, and the highest: all that counts."""
    kept: list[Watermark] = []
    highest: Watermark | None = None
    for one in candidates:
        if highest is not None and one.oldest_open_ms <= highest.oldest_open_ms:
            continue
        if highest is None or _hours(one) > _hours(highest):
            kept.append(one)
        highest = one
    if highest is not None and kept[-1] is not highest:
        kept.append(highest)
    return kept


def _hours(watermark: Watermark) -> int:
    return watermark.oldest_open_ms // MS_PER_HOUR


def _named(source: SourceState) -> str:
    return f"source {source.source} (host {source.host})"
