"""The local ClickHouse: real, durable over a clean stop and over a kill, alone in its folder."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infra.clickhouse.client import connect
from infra.clickhouse.local import LocalClickHouse, end_of_fifo
from infra.local_server import launch, wait_until_ready
from infra.ports import choose_port
from schemas.errors import ServerStartError
from tests.support.servers.clickhouse import local_clickhouse


def test_shared_server_answers_queries(clickhouse_url: str) -> None:
    client = connect(clickhouse_url)
    assert client.query("SELECT sum(number) FROM numbers(10)").first_row == (45,)


def test_rows_outlive_a_kill_of_the_server(tmp_path: Path) -> None:
    clickhouse = LocalClickHouse(tmp_path / "data", choose_port(str(tmp_path)))
    server = clickhouse.server(log=tmp_path / "log")
    killed = launch(server)
    wait_until_ready(server, killed, 60)
    client = connect(clickhouse.url)
    client.command("CREATE DATABASE d")
    client.command("CREATE TABLE d.t (n Int64) ENGINE = MergeTree ORDER BY n")
    client.command("INSERT INTO d.t SELECT number FROM numbers(1000)")
    killed.kill()
    killed.wait()
    with local_clickhouse(tmp_path / "data") as again:
        assert connect(again.url).query("SELECT count() FROM d.t").first_row == (1000,)


def test_second_server_on_a_busy_port_fails_with_the_reason(tmp_path: Path) -> None:
    with local_clickhouse(tmp_path / "one") as first:
        second = LocalClickHouse(tmp_path / "two", first.http_port).server(log=tmp_path / "log")
        process = launch(second)
        assert process.wait(30) == 1
        with pytest.raises(ServerStartError, match="Address already in use"):
            wait_until_ready(
                LocalClickHouse(tmp_path / "two", 1).server(log=tmp_path / "log"), process, 1
            )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_server_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    clickhouse = LocalClickHouse(tmp_path, choose_port(f"{tmp_path}{number}"))
    server = clickhouse.server(log=tmp_path / "log")
    process = launch(server)
    wait_until_ready(server, process, 60)
    process.send_signal(number)
    assert process.wait(30) == 0


def test_reader_that_comes_after_the_last_writer_finds_the_end(tmp_path: Path) -> None:
    """As where a stop is asked for between the first answer and the query that waits."""
    fifo = LocalClickHouse(tmp_path, 1).write_files()
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()), daemon=True)
    end_of_fifo(fifo)
    reader.start()
    reader.join(0.5)
    assert reader.is_alive()
    deadline_s = time.monotonic() + 10
    while reader.is_alive() and time.monotonic() < deadline_s:
        end_of_fifo(fifo)
        reader.join(0.1)
    assert found == [b""]


def test_server_ends_when_its_standard_input_does(tmp_path: Path) -> None:
    port = choose_port(str(tmp_path))
    clickhouse = LocalClickHouse(tmp_path, port)
    command = [*clickhouse.server(log=tmp_path / "log").command, "--until-stdin-closes"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    wait_until_ready(clickhouse.server(log=tmp_path / "log"), process, 60)
    process.stdin.close()
    assert process.wait(30) == 0


def test_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    clickhouse = LocalClickHouse(tmp_path, choose_port(str(tmp_path)))
    script = f"""
import os
from pathlib import Path
from infra.clickhouse.local import LocalClickHouse, end_of_fifo
from infra.local_server import launch, wait_until_ready
server = LocalClickHouse(Path({str(tmp_path)!r}), {clickhouse.http_port}).server(Path("log"))
wait_until_ready(server, launch(server), 60)
os.kill(os.getpid(), 9)
"""
    starter = subprocess.run([sys.executable, "-c", script], check=False, cwd=tmp_path, timeout=90)
    assert starter.returncode == -signal.SIGKILL
    # A new server gets the lock of the folder only once the old one is gone.
    server = clickhouse.server(log=tmp_path / "log")
    process = launch(server)
    try:
        wait_until_ready(server, process, 60)
    finally:
        process.kill()
        process.wait()
