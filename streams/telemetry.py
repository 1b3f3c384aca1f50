"""What ingest counts, and how it says so: JSON log lines and a statistics file."""

import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

_PLAIN = frozenset(vars(logging.makeLogRecord({})))


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


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the `extra` fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json(stream: TextIO = sys.stderr, *, quiet: bool = False) -> None:
    """Send every logger's lines to `stream` as JSON; the libraries only from WARNING on.

    Args:
        stream: Where to.
        quiet: Our own lines too only from WARNING on.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    # It warns whenever a commit takes longer than the time between two.
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
    logging.getLogger("rentroll").setLevel(logging.WARNING if quiet else logging.INFO)
