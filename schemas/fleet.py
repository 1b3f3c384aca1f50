"""Events about the fleet: engine intervals, capacity and reservations (`capacity.v1`)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.envelope import Envelope, SourceEvent
from schemas.fields import (
    Contract,
    Count,
    GpuCount,
    HexSignature,
    Name,
    Nanoseconds,
    Sequence,
    SequenceOrNone,
    Sha256,
    SourceId,
    Timestamp,
    TokenCount,
)
from schemas.ids import parse_ms
from schemas.units import INT64_MAX, NS_PER_HOUR, NS_PER_MS

RangePurpose = Literal["interval", "closed"]


class SignedRange(Contract):
    """What a source vouches for: its events `sequence_first` to `sequence_last`, inclusive.

    `sha256` runs over their content hashes in order, so the ledger alone can verify it; the
    Ed25519 `signature` over `signed_bytes` is made with the source's registered key. Ranges of
    one source follow each other without a gap, so together they vouch for everything.
    """

    sequence_first: Sequence
    sequence_last: Sequence
    sha256: Sha256
    signature: HexSignature

    @model_validator(mode="after")
    def _not_backwards(self) -> Self:
        if self.sequence_last < self.sequence_first:
            raise ValueError(
                f"sequence_last: {self.sequence_last} < sequence_first {self.sequence_first}",
            )
        return self


def signed_bytes(source: str, purpose: RangePurpose, first: int, last: int, sha256: str) -> bytes:
    """The exact bytes under a `SignedRange`'s signature; `purpose` keeps one from being reused."""
    return f"rentroll.range.v1\n{source}\n{purpose}\n{first}\n{last}\n{sha256}\n".encode()


class EngineIntervalData(Contract):
    """Where one engine's GPU time went in `[start_unix_ns, end_unix_ns)`, exactly.

    `owned = gpus * wall = attributed + stall + idle + overhead + startup + unaccounted
    + (open_step_end - open_step_start)`, and over the parts with an ordinal in
    `(ordinal_start, ordinal_end]`:
    `sum(gpu_ns) + in_flight_end - in_flight_start = attributed`. Both hold to the nanosecond.

    `unaccounted_ns` is 0 unless the interval was `synthesized` after an engine's death. It does
    not cross a whole UTC hour, unless synthesized, so that each hour owns its time.
    `oldest_open_at` is the low watermark: the earliest admission among requests still open at
    its end, or that end: what the source sends later is not older.
    """

    engine: SourceId
    model: Name
    replica: Name
    region: Name
    gpu_type: Name
    gpus: Annotated[int, Field(ge=1, le=65_535)]
    start_unix_ns: Annotated[int, Field(ge=0, le=INT64_MAX)]
    end_unix_ns: Annotated[int, Field(ge=0, le=INT64_MAX)]
    owned_ns: Nanoseconds
    attributed_ns: Nanoseconds
    stall_ns: Nanoseconds
    idle_ns: Nanoseconds
    overhead_ns: Nanoseconds
    startup_ns: Nanoseconds
    open_step_start_ns: Nanoseconds
    open_step_end_ns: Nanoseconds
    unaccounted_ns: Nanoseconds
    in_flight_start_ns: Nanoseconds
    in_flight_end_ns: Nanoseconds
    ordinal_start: SequenceOrNone
    ordinal_end: SequenceOrNone
    tokens_scheduled: TokenCount
    steps: Count
    running_requests: Count
    waiting_requests: Count
    oldest_open_at: Timestamp
    synthesized: bool
    range: SignedRange

    @model_validator(mode="after")
    def _time_is_conserved(self) -> Self:
        wall_ns = self.end_unix_ns - self.start_unix_ns
        if wall_ns < 0 or self.owned_ns != self.gpus * wall_ns:
            raise ValueError(f"owned_ns: {self.owned_ns} is not gpus * wall {self.gpus * wall_ns}")
        spent_ns = (
            self.attributed_ns
            + self.stall_ns
            + self.idle_ns
            + self.overhead_ns
            + self.startup_ns
            + self.unaccounted_ns
            + self.open_step_end_ns
            - self.open_step_start_ns
        )
        if self.owned_ns != spent_ns:
            raise ValueError(f"owned_ns: {self.owned_ns} differs from where it went, {spent_ns}")
        return self

    @model_validator(mode="after")
    def _not_backwards(self) -> Self:
        if self.ordinal_end < self.ordinal_start:
            raise ValueError(f"ordinal_end: {self.ordinal_end} < start {self.ordinal_start}")
        if parse_ms(self.oldest_open_at) > self.end_unix_ns // NS_PER_MS:
            raise ValueError(f"oldest_open_at: {self.oldest_open_at} is after the interval's end")
        return self

    @model_validator(mode="after")
    def _only_a_synthesized_one_has_leave(self) -> Self:
        if self.synthesized:
            return self
        if self.unaccounted_ns:
            raise ValueError(f"unaccounted_ns: {self.unaccounted_ns}, but not synthesized")
        last_ns = max(self.end_unix_ns - 1, self.start_unix_ns)
        if self.start_unix_ns // NS_PER_HOUR != last_ns // NS_PER_HOUR:
            raise ValueError(
                f"end_unix_ns: {self.end_unix_ns} is in another UTC hour than"
                f" start_unix_ns {self.start_unix_ns}",
            )
        return self


def refuse_range_not_up_to(sequence: int, signed: SignedRange) -> None:
    """Hold a signed range to the event that carries it: it ends just before that event.

    Raises:
        ValueError: If it does not.
    """
    if signed.sequence_last != sequence - 1:
        raise ValueError(
            f"range: sequence_last {signed.sequence_last} is not the event's sequence - 1"
            f" = {sequence - 1}",
        )


class EngineInterval(SourceEvent):
    """`io.rentroll.engine.interval.v1`: per engine every few seconds, cut at whole UTC hours."""

    type: Literal["io.rentroll.engine.interval.v1"]
    data: EngineIntervalData

    @model_validator(mode="after")
    def _range_ends_here(self) -> Self:
        refuse_range_not_up_to(self.sequence, self.data.range)
        return self


class CapacityOwnedData(Contract):
    """GPUs in a pool from `effective_at` on, until the next event of the same pool."""

    pool: Name
    region: Name
    gpu_type: Name
    gpus_with_engine: GpuCount
    gpus_without_engine: GpuCount
    gpus_leased: GpuCount
    effective_at: Timestamp


class CapacityOwned(SourceEvent):
    """`io.rentroll.capacity.owned.v1`."""

    type: Literal["io.rentroll.capacity.owned.v1"]
    data: CapacityOwnedData


class ReservationChangedData(Contract):
    """A tenant's reservation of whole GPUs; `released` ends it at `effective_at`."""

    reservation: Name
    pool: Name
    gpu_type: Name
    gpus: GpuCount
    state: Literal["reserved", "released"]
    effective_at: Timestamp


class ReservationChanged(Envelope):
    """`io.rentroll.reservation.changed.v1`: its subject is the tenant."""

    type: Literal["io.rentroll.reservation.changed.v1"]
    data: ReservationChangedData
