"""A worker tells Prometheus what it does, and whether it lives and is ready."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.clickhouse.migrate import migrate
from infra.kafka.topics import ensure_topics
from infra.metrics_server import Told, answering
from infra.ports import choose_port
from schemas.errors import PortBusyError
from streams.ingest_watch import METRICS
from tests.support.ingest_log import SentLog, traffic
from tests.support.ingest_process import start_worker
from tests.support.servers.clickhouse import ClickHouseAwayAndBack

pytestmark = pytest.mark.timeout(300)
WAIT_S = 90


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def samples(text: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def eventually(what: Callable[[], Any]) -> Any:
    """The first answer that is true; whatever it raises counts as not yet."""
    end_s = time.monotonic() + WAIT_S
    while True:
        try:
            found = what()
        except OSError:
            found = None
        if found or time.monotonic() > end_s:
            return found
        time.sleep(0.2)


@contextmanager
def worker(
    bootstrap: str, ledger: ClickHouseAwayAndBack, folder: Path, **settings: str
) -> Iterator[int]:
    port = choose_port(str(folder))
    process = start_worker(
        kafka=bootstrap,
        clickhouse=ledger.url,
        database="watched",
        group=f"watched-{folder.name}",
        folder=folder,
        settings={"RENTROLL_INGEST_METRICS_PORT": str(port), **settings},
    )
    try:
        yield port
    finally:
        process.kill()
        process.wait(10)


def test_a_worker_counts_what_it_does_and_is_ready_only_while_its_servers_answer(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    ensure_topics(kafka_bootstrap)
    SentLog(kafka_bootstrap).send(traffic("watched", 300).records, [("usage.v1", b"not json")])
    (tmp_path / "clickhouse").mkdir()
    with ClickHouseAwayAndBack(tmp_path / "clickhouse") as ledger:
        migrate(ledger.url, "watched")
        with worker(kafka_bootstrap, ledger, tmp_path / "w", RENTROLL_INGEST_READY_S="8") as port:

            def done() -> dict[str, float] | None:
                found = samples(get(port, "/metrics")[1])
                lag = [value for name, value in found.items() if "lag_events" in name]
                return found if lag and not any(lag) and get(port, "/readyz")[0] == 200 else None

            found = eventually(done)
            assert found, get(port, "/readyz")
            assert found["rentroll_ingest_rows_total"] >= 300
            assert found["rentroll_ingest_refused_records_total"] >= 1
            assert found["rentroll_ingest_lag_seconds"] == 0
            assert found["rentroll_ingest_lost_offsets_total"] == 0
            assert found["rentroll_process_resident_bytes"] > 10_000_000
            count = found["rentroll_ingest_insert_seconds_count"]
            assert found['rentroll_ingest_insert_seconds_bucket{le="+Inf"}'] == count > 0
            text = get(port, "/metrics")[1]
            missing = [one.full_name for one in METRICS if f"# TYPE {one.full_name} " not in text]
            assert missing == []

            ledger.kill()
            SentLog(kafka_bootstrap).send(traffic("watched-late", 20).records)

            def says(words: str) -> Callable[[], bool]:
                return lambda: words in get(port, "/readyz")[1]

            assert eventually(says("ClickHouse does not answer within 8 s")), get(port, "/readyz")
            assert eventually(
                lambda: samples(get(port, "/metrics")[1])["rentroll_ingest_lag_seconds"]
            )
            assert get(port, "/readyz")[0] == 503
            assert get(port, "/healthz")[0] == 200
            ledger.start()
            assert eventually(done), get(port, "/readyz")
            assert samples(get(port, "/metrics")[1])["rentroll_ingest_retries_total"] > 0
    assert [json.loads(line) for line in (tmp_path / "w/worker.log").read_text().splitlines()], (
        "every line of a worker is JSON"
    )


def test_the_server_tells_what_is_wrong_and_takes_no_port_of_another() -> None:
    wrong: list[str] = []
    told = Told(lambda: "rentroll_x 1\n", list, lambda: wrong)
    with answering(0, told) as port:
        assert get(port, "/metrics?a=b") == (200, "rentroll_x 1\n")
        assert get(port, "/readyz") == (200, '{"ok": true, "wrong": []}\n')
        wrong.append("waits")
        assert get(port, "/readyz") == (503, '{"ok": false, "wrong": ["waits"]}\n')
        assert get(port, "/healthz")[0] == 200
        assert get(port, "/")[0] == 404
        with pytest.raises(PortBusyError, match=str(port)), answering(port, told):
            pass
