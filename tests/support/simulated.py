"""Small simulations and what lies in their outboxes, for the tests of stage 1."""

import sqlite3
from pathlib import Path

from inference.outbox import OutboxRow, SourceIdentity
from inference.outbox_file import OUTBOX_FILE
from inference.settings import InferenceSettings
from inference.simulate.plan import Plan
from inference.simulate.run import plan_trace
from inference.wire import Record
from infra.signing import SourceKey
from schemas.ids import derived_uuid, uuid7
from schemas.periods import Period, parse_period

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
OCTOBER = parse_period("2026-10")
START_MS = 1_790_812_800_000
"""2026-10-01T00:00:00Z."""


def write_trace(folder: Path, *rows: str, header: str = HEADER) -> Path:
    """A trace file of these rows."""
    path = folder / "trace.csv"
    path.write_text(header + "".join(f"{row}\n" for row in rows))
    return path


def rows_at(
    count: int, *, step_ms: int = 700, context: int = 400, generated: int = 60
) -> list[str]:
    """Rows `step_ms` apart (0: a burst), from 2023-11-16 18:15:46.68 on, of varied sizes."""
    rows = []
    for number in range(count):
        ms = 46_680 + number * step_ms
        minute, second_ms = divmod(ms, 60_000)
        hour, minute = divmod(15 + minute, 60)
        clock = f"{18 + hour:02d}:{minute:02d}:{second_ms // 1000:02d}.{second_ms % 1000:03d}0000"
        rows.append(
            f"2023-11-16 {clock},{context * (1 + number % 5) // 2},{generated * (number % 7) // 3}"
        )
    return rows


def small_plan(
    trace: Path, *, seed: int = 7, when: Period | None = OCTOBER, **settings: object
) -> Plan:
    """The plan of a trace with the default assignment."""
    changed = InferenceSettings.model_validate(settings)
    return plan_trace(trace, seed=seed, when=when, settings=changed)


def outbox_rows(folder: Path) -> list[OutboxRow]:
    """Every event in every outbox below a folder, by source folder and sequence."""
    rows: list[OutboxRow] = []
    for path in sorted(folder.rglob(OUTBOX_FILE)):
        connection = sqlite3.connect(path)
        found = connection.execute(
            "SELECT sequence, topic, key, value FROM events ORDER BY sequence"
        ).fetchall()
        connection.close()
        rows += [OutboxRow(*row) for row in found]
    return rows


def identity(name: str = "one") -> SourceIdentity:
    """A source of its own, with a key of its own."""
    return SourceIdentity(
        source=derived_uuid("test", name),
        host=f"host-{name}",
        software="rentroll test",
        key=SourceKey(derived_uuid("key", name).replace("-", "").encode()),
    )


def record(number: int, *, kind: str = "request.finished", text: str = "{}") -> Record:
    """A record with a distinct id; its data is whatever JSON one says."""
    return Record(kind, uuid7(START_MS + number, number), "acme", text.encode())
