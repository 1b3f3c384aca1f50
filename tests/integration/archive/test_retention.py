"""What retention took before it was archived is on record as a gap, never passed over."""

import asyncio
import itertools
import os
from pathlib import Path

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from sqlalchemy import Engine

from infra.kafka.topics import ensure_topics
from infra.objects.folder import FolderObjects
from infra.stop_request import StopRequest
from schemas.clock import FixedClock
from schemas.topics import Topic
from streams.archive import Archive
from streams.archive_heads import StoredHeads
from streams.archive_log import GroupLog
from streams.archive_verifying import verify
from streams.archive_worker import ArchiveCounters, Archiver
from streams.settings import StreamSettings

pytestmark = pytest.mark.timeout(300)
_numbers = itertools.count(1)


def archive_once(bootstrap: str, topic: str, archive: Archive, store: Engine) -> ArchiveCounters:
    """One archiver until it is idle, in a group of its own."""

    async def work() -> ArchiveCounters:
        group = GroupLog(
            bootstrap,
            f"retention-{os.getpid()}-{next(_numbers)}",
            session_timeout_s=6,
            heartbeat_s=1,
            fetch_bytes=65_536,
        )
        archiver = Archiver(archive, group, StoredHeads(store, FixedClock(1)), StreamSettings())
        await archiver.run([topic], StopRequest(), until_idle_s=0.5)
        return archiver.counters

    return asyncio.run(work())


def fill(bootstrap: str, topic: str, count: int) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for number in range(count):
        producer.send(topic, value=b"%d" % number)
    producer.flush()
    producer.close()


def forget(bootstrap: str, topic: str, before: int) -> None:
    """Delete records as retention does."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.delete_records({TopicPartition(topic, 0): before})
    admin.close()


def test_gap_is_on_record_at_the_start_and_in_the_middle(
    kafka_bootstrap: str, tmp_path: Path, store: Engine
) -> None:
    name = f"retention-{os.getpid()}"
    ensure_topics(kafka_bootstrap, [Topic(name, 1, "delete", -1, "none", ())])
    archive = Archive(FolderObjects(tmp_path))
    fill(kafka_bootstrap, name, 100)
    forget(kafka_bootstrap, name, 30)
    assert archive_once(kafka_bootstrap, name, archive, store).gap_offsets == 30
    found = verify(archive, None)
    assert (found.faults, found.late, found.records) == ([], 30, 70)

    fill(kafka_bootstrap, name, 100)
    forget(kafka_bootstrap, name, 150)
    counters = archive_once(kafka_bootstrap, name, archive, store)
    assert (counters.gap_offsets, counters.records) == (50, 50)
    kinds = [(one.kind, one.start, one.end) for one in archive.entries((name, 0))]
    assert kinds == [("gap", 0, 30), ("records", 30, 100), ("gap", 100, 150), ("records", 150, 200)]
    (fault,) = verify(archive, None).faults
    assert "[100, 150)" in str(fault)
    assert "the log had lost these records before they were archived" in str(fault)
