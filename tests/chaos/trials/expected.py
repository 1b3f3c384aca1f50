"""What must be in the ledger, kept while it is sent; and how the ledger differs from it."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from infra.clickhouse.client import Client
from schemas.ids import digest_of_hashes
from tests.support.events import Record
from tests.support.ingest_log import TABLES

Place = tuple[str, int]
Row = tuple[str, bytes]
"""Table and content hash."""
Spot = tuple[str, int, int]
"""Topic, partition and offset."""
TABLE_OF_TYPE = {
    "io.rentroll.request.finished.v1": "usage_events",
    "io.rentroll.engine.part.finished.v1": "engine_parts",
    "io.rentroll.engine.interval.v1": "engine_intervals",
}
GAP = "log_start"


@dataclass(slots=True)
class Difference:
    """Between ledger and model; `alarmed` were lost to retention, and it was said."""

    lost: int = 0
    doubled: int = 0
    alarmed: int = 0
    examples: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled)


class Expected:
    """The model of one ledger."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap, compression_type="lz4", linger_ms=5
        )
        self.rows: dict[Row, list[Spot]] = {}
        self.letters: dict[Spot, bytes] = {}
        self.gone: dict[Place, int] = {}
        """Below which offset the log was deleted unread, per partition."""

    def close(self) -> None:
        self._producer.close()

    def send(self, records: Iterable[Record], noise: Iterable[bytes] = ()) -> None:
        """Append to the log, and wait until the broker has it all."""
        sent = [
            (record, self._producer.send(record.topic, key=record.key, value=record.value))
            for record in records
        ]
        refused = [(value, self._producer.send("usage.v1", value=value)) for value in noise]
        for record, future in sent:
            spot = _spot(future)
            table = TABLE_OF_TYPE.get(str(getattr(record.event, "type", "")), "fleet_events")
            self.rows.setdefault((table, record.content_hash), []).append(spot)
        for value, future in refused:
            self.letters[_spot(future)] = value

    def digests(self) -> dict[str, str]:
        """SHA-256 over the sorted content hashes, per table."""
        return {
            table: digest_of_hashes(content for of, content in self.rows if of == table)
            for table in TABLES
        }

    def is_complete(self, ledger: Client) -> bool:
        """Whether as many rows and dead letters are there as there must be; a quick look."""
        parts = [f"(SELECT count() FROM {table} FINAL)" for table in (*TABLES, "dead_letters")]
        ((count,),) = ledger.query(f"SELECT {' + '.join(parts)}").result_rows
        return int(count) >= len(self.rows) + len(self.letters)

    def difference(self, ledger: Client, alarmed: Iterable[tuple[Place, int, int]]) -> Difference:
        """Look for every row and dead letter, once; what retention took must have been said."""
        stored = _stored(ledger)
        found = Difference()
        said = list(alarmed)
        for row, spots in list(self.rows.items()):
            count = stored.pop(row, 0)
            if count > 1:
                found.doubled += count - 1
                found.examples.append(f"{row[0]} {row[1].hex()} is there {count} times: {spots}")
            elif not count:
                if self._may_miss(spots, said):
                    found.alarmed += 1
                    del self.rows[row]
                    continue
                found.lost += 1
                found.examples.append(f"{row[0]} {row[1].hex()} is not there: {spots}")
        self._look_for_letters(ledger, said, found)
        found.doubled += sum(stored.values())
        found.examples += [f"{table} {content.hex()}: nobody sent it" for table, content in stored]
        if not found and self.digests() != ledger_digests(ledger):
            found.doubled += 1
            found.examples.append("the digests differ")
        return found

    def _look_for_letters(
        self, ledger: Client, said: list[tuple[Place, int, int]], found: Difference
    ) -> None:
        letters = _letters(ledger)
        for spot, value in list(self.letters.items()):
            if letters.get(spot) == value:
                continue
            if self._may_miss([spot], said):
                found.alarmed += 1
                del self.letters[spot]
                continue
            found.lost += 1
            found.examples.append(f"no dead letter of {spot}")

    def _may_miss(self, spots: Iterable[Spot], said: list[tuple[Place, int, int]]) -> bool:
        return all(
            offset < self.gone.get((topic, partition), 0)
            and any(
                place == (topic, partition) and first <= offset < end for place, first, end in said
            )
            for topic, partition, offset in spots
        )


def alarms_in(folder: Path) -> Iterator[tuple[Place, int, int]]:
    """The ranges that workers said were lost to retention, from their logs."""
    for log in folder.glob("*/worker.log"):
        for line in log.read_text(errors="replace").splitlines():
            if GAP in line and line.startswith("{"):
                said = json.loads(line)
                topic, partition = said["place"]
                yield (topic, partition), said["first"], said[GAP]


def ledger_digests(ledger: Client) -> dict[str, str]:
    """The ledger's side of `Expected.digests`."""
    stored = _stored(ledger)
    return {
        table: digest_of_hashes(content for of, content in stored if of == table)
        for table in TABLES
    }


def stored_copies(ledger: Client) -> int:
    """Rows that lie in the ledger more than once at present, and collapse when it is read."""
    total = 0
    for table in TABLES:
        query = f"SELECT count(), uniqExact(event_id, content_hash) FROM {table}"
        ((rows, distinct),) = ledger.query(query).result_rows
        total += rows - distinct
    return total


def _stored(ledger: Client) -> Counter[Row]:
    parts = [
        f"SELECT '{table}', hex(content_hash), count() FROM {table} FINAL GROUP BY content_hash"
        for table in TABLES
    ]
    rows = ledger.query(" UNION ALL ".join(parts)).result_rows
    return Counter({(table, bytes.fromhex(content)): count for table, content, count in rows})


def _letters(ledger: Client) -> dict[Spot, bytes]:
    query = "SELECT topic, kafka_partition, kafka_offset, hex(value) FROM dead_letters FINAL"
    rows = ledger.query(query).result_rows
    return {
        (topic, partition, offset): bytes.fromhex(value) for topic, partition, offset, value in rows
    }


def _spot(future: Any) -> Spot:
    placed = future.get(timeout=60)
    return placed.topic, placed.partition, placed.offset
