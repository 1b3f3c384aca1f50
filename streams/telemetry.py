"""What ingest counts, and how it says so: JSON log lines and a statistics file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.logs import log_as_json

__all__ = ["IngestCounters", "log_as_json", "write_statistics"]


@dataclass(slots=True)
class IngestCounters:
    """Counts since this worker started. Names say the unit; nothing is ever reset."""

    records: int = 0
    """Records whose range is in the ledger, refused ones included."""
    rows: int = 0
    refused_records: int = 0
    ranges: int = 0
    inserts: int = 0
    retries: int = 0
    """Calls to the broker or the ledger that were made again."""
    replayed_ranges: int = 0
    commits: int = 0
    fenced_partitions: int = 0
    rebalances: int = 0
    lost_offsets: int = 0
    """Offsets that the log no longer had when they were due: retention passed them unread."""
    decode_ns: int = 0
    insert_ns: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def write_statistics(path: Path, counters: IngestCounters) -> None:
    """Replace the statistics file in one step, so that a reader never sees half of it."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(counters.as_dict(), sort_keys=True) + "\n")
    fresh.replace(path)
