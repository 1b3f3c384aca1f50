"""What a roll-up run is: its identity, its sums, and the equalities it must keep: pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from schemas.errors import ConservationError
from schemas.ids import derived_hex, digest_of_hashes
from schemas.tables import ROLLUP_MEASURES
from schemas.units import MS_PER_S

RULES_VERSION = "rollup-1"
"""Changes when the same events would be rolled up to other rows."""
EMPTY_DIGEST = digest_of_hashes(())


@dataclass(frozen=True, slots=True)
class HourSums:
    """One hour's proven events: digest over their content hashes, and the sum of every measure."""

    digest: str = EMPTY_DIGEST
    measures: tuple[int, ...] = (0,) * len(ROLLUP_MEASURES)

    def measure(self, name: str) -> int:
        """The sum of one measure of `schemas.tables.ROLLUP_MEASURES`."""
        return self.measures[ROLLUP_MEASURES.index(name)]

    def quantities(self) -> dict[str, int]:
        """Every measure by its name."""
        return dict(zip(ROLLUP_MEASURES, self.measures, strict=True))


NO_SUMS = HourSums()


@dataclass(frozen=True, slots=True)
class LedgerCount:
    """What the ledger holds in one hour, counted by queries other than the roll-up's.

    `rows` are all requests, one copy each; `stored` counts the copies too. `proven` are those
    that their source signed; `parts_gpu_ns` is what engines behind other doors add.
    """

    stored: int = 0
    rows: int = 0
    proven: int = 0
    gpu_ns: int = 0
    parts: int = 0
    parts_gpu_ns: int = 0


NO_COUNT = LedgerCount()


def offsets_text(offsets: Mapping[str, int]) -> str:
    """The offset vector as its run's header keeps it: canonical JSON."""
    return json.dumps(dict(offsets), sort_keys=True, separators=(",", ":"))


def run_id(hour_ms: int, offsets: str, digest: str, decisions_position: int) -> str:
    """The identity of a run: everything that decides which rows it has."""
    hour = f"{hour_at(hour_ms):%Y-%m-%dT%H:%MZ}"
    return derived_hex(hour, offsets, digest, RULES_VERSION, str(decisions_position))


def hour_at(hour_ms: int) -> datetime:
    """The hour that starts at `hour_ms` since the epoch."""
    return datetime.fromtimestamp(hour_ms // MS_PER_S, UTC)


def refuse_unequal_ledger(
    hour_ms: int, sums: HourSums, count: LedgerCount, dropped: LedgerCount, proven_by_sources: int
) -> None:
    """Hold the roll-up's sums to two other counts of the same hour.

    Args:
        hour_ms: The hour.
        sums: What the roll-up's own query found.
        count: What plain counts of the ledger found.
        dropped: What of it the settling of a conflict takes out.
        proven_by_sources: Requests that the sources' signed ranges prove for this hour.

    Raises:
        ConservationError: If they differ: events were added or merged away while they were read.
    """
    named = f"{hour_at(hour_ms):%Y-%m-%dT%H:%MZ}"
    if count.proven != proven_by_sources:
        raise ConservationError(
            f"hour {named}: the sources prove {proven_by_sources} requests, the ledger now shows"
            f" {count.proven}: it changed while it was read; close the hour again"
        )
    requests = count.proven - dropped.proven
    if sums.measure("requests") != requests:
        raise ConservationError(
            f"hour {named}: {sums.measure('requests')} requests to roll up, the ledger has"
            f" {count.proven} proven - {dropped.proven} dropped by decision"
        )
    gpu_ns = count.gpu_ns + count.parts_gpu_ns - dropped.gpu_ns - dropped.parts_gpu_ns
    if sums.measure("gpu_ns") != gpu_ns:
        raise ConservationError(
            f"hour {named}: gpu_ns {sums.measure('gpu_ns')} to roll up, the ledger has {gpu_ns}:"
            f" requests {count.gpu_ns}, parts {count.parts_gpu_ns}"
        )


def refuse_unequal_run(hour_ms: int, run: str, sums: HourSums, written: HourSums) -> None:
    """Hold what was written under a run to what was read for it.

    Raises:
        ConservationError: If any measure differs; the run must not be published.
    """
    for name, read, found in zip(ROLLUP_MEASURES, sums.measures, written.measures, strict=True):
        if read != found:
            raise ConservationError(
                f"hour {hour_at(hour_ms):%Y-%m-%dT%H:%MZ}, run {run[:12]}…: {name} is {found} in"
                f" the roll-up, {read} in the ledger; it is not published"
            )
