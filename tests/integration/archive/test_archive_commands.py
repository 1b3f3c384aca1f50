"""Archive, verify, list and replay as a person runs them, down to a ledger that was dropped."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.clickhouse.client import Client, connect
from infra.kafka.topics import ensure_topics
from tests.support.closing import Books, states
from tests.support.ingest_log import SentLog, traffic
from tests.support.ingest_process import ROOT, start_worker

pytestmark = pytest.mark.timeout(600)


class Rentroll:
    """The command line in its own process."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def run(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "rentroll", *words],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == status, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture
def rentroll(
    kafka_bootstrap: str, clickhouse_url: str, ledger: Client, store_url: str, tmp_path: Path
) -> Rentroll:
    return Rentroll(
        {
            **os.environ,
            "RENTROLL_HOME": str(tmp_path / "home"),
            "RENTROLL_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "RENTROLL_CLICKHOUSE_URL": clickhouse_url,
            "RENTROLL_CLICKHOUSE_DATABASE": str(ledger.database),
            "RENTROLL_STORE_URL": store_url,
            "RENTROLL_STRIPE_API_KEY": "sk_test_unused",
            "RENTROLL_ARCHIVE_GROUP": f"commands-{os.getpid()}",
            "RENTROLL_ARCHIVE_FILE_RECORDS": "500",
            "COLUMNS": "200",
        }
    )


def published(books: Books) -> list[Sequence[Sequence[object]]]:
    """What everyone reads of the published runs: the roll-ups, and what each tenant had."""
    return [
        books.client.query(f"SELECT * FROM {shown} ORDER BY ALL").result_rows
        for shown in ("usage_hourly", "run_tenants FINAL")
    ]


def test_ledger_is_archived_dropped_and_rebuilt_to_the_same_digests(
    books: Books, rentroll: Rentroll, kafka_bootstrap: str, clickhouse_url: str, tmp_path: Path
) -> None:
    ensure_topics(kafka_bootstrap)
    host = traffic("commands", 900)
    SentLog(kafka_bootstrap).send(host.records, [("usage.v1", b"noise of commands")])
    database = str(books.client.database)
    worker = start_worker(
        kafka=kafka_bootstrap,
        clickhouse=clickhouse_url,
        database=database,
        group=f"commands-{database}",
        folder=tmp_path / "worker",
        until_idle_s=1,
    )
    assert worker.wait(200) == 0
    books.register(host)
    closing = books.close(hours=1)
    assert states(closing) == ["published"], closing.hours[0].reason
    before = published(books)
    assert all(before)

    assert "archived" in rentroll.run("archive", "run", "--until-idle", "1")
    listed = rentroll.run("archive", "list")
    assert "usage.v1/3" in listed
    assert "sound" in rentroll.run("archive", "verify")
    hour = ("--range", "2026-10-01T00")
    for origin in ("archive", "kafka"):
        said = rentroll.run("replay", "--from", origin, *hour)
        assert "identical: 1 runs of 2026-10-01T00, 900 events" in said

    # More comes after the archive's end: it is read from the log.
    SentLog(kafka_bootstrap).send(traffic("afterwards", 20).records)
    with connect(clickhouse_url, "default") as server:
        server.command(f"DROP DATABASE {database} SYNC")
    said = rentroll.run("replay", "--all")
    assert "identical: 1 runs of the whole ledger, 900 events" in said
    assert published(books) == before
    late = (
        f"SELECT count() FROM usage_events FINAL WHERE source = '{traffic('afterwards', 1).source}'"
    )
    assert books.client.query(late).first_row == (20,)

    (file, *_) = sorted((tmp_path / "home/archive/usage.v1/00000").glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)
    said = rentroll.run("archive", "verify", status=1).replace("\n", "")
    assert f"{file.name} (entry 1" in said
    assert "bytes were changed" in said
    assert "its bytes are not those that were archived" in rentroll.run(
        "replay", "--from", "archive", *hour, status=1
    ).replace("\n", " ")


def test_commands_refuse_what_they_cannot_do(rentroll: Rentroll) -> None:
    assert "give either" in rentroll.run("replay", status=2)
    assert "goes forward" in rentroll.run(
        "replay", "--range", "2026-10-01T05..2026-10-01T05", status=1
    )
    assert "no hour of 2026-10 has a published run" in rentroll.run(
        "replay", "--range", "2026-10", status=1
    ).replace("\n", " ")
