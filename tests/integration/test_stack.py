"""The whole stack with real servers: ready, repaired after kills, stopped without a trace."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from infra.addresses import answers_http
from infra.clickhouse.client import connect
from infra.endpoints import resolve
from infra.ports import is_free
from infra.settings import InfraSettings
from infra.stack.control import running_keeper, running_stack
from infra.stack.state import Phase
from infra.store.migrate import pending
from schemas.topics import TOPICS
from tests.support.stack_runs import StackFolder, wait_for

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackFolder]:
    folder = StackFolder(tmp_path_factory.mktemp("stack"))
    yield folder
    folder.rentroll("down")
    assert folder.processes() == []


@pytest.fixture
def stack(folder: StackFolder) -> StackFolder:
    """A stack that is ready; the tests share it, and whoever breaks it must see it repaired."""
    up = folder.rentroll("up", "--detach")
    assert up.returncode == 0, up.stderr
    return folder


def is_repaired(stack: StackFolder, name: str, killed: int) -> bool:
    member = stack.member(name)
    process = member.process
    return member.phase is Phase.READY and process is not None and process.pid != killed


def topics(bootstrap: str) -> set[str]:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        return set(admin.list_topics())
    finally:
        admin.close()


def test_ready_stack_has_topics_tables_and_a_store(stack: StackFolder) -> None:
    endpoints = resolve(InfraSettings(home=stack.home))
    assert {topic.name for topic in TOPICS} <= topics(endpoints.kafka_bootstrap)
    client = connect(endpoints.clickhouse_url, endpoints.clickhouse_database)
    assert client.query("SELECT count() FROM usage_events FINAL").first_row == (0,)
    assert pending(endpoints.store_url) == []
    assert answers_http(f"{endpoints.stripe_api_base}/healthz")


def test_status_shows_every_member_up(stack: StackFolder) -> None:
    status = stack.rentroll("status")
    assert status.returncode == 0, status.stdout
    rows = [line for line in status.stdout.splitlines() if "127.0.0.1" in line or "sqlite" in line]
    assert len(rows) == 4
    assert all(" up" in row for row in rows)


def test_second_up_says_that_it_already_runs_and_changes_nothing(stack: StackFolder) -> None:
    before = stack.state()
    second = stack.rentroll("up")
    assert second.returncode == 0
    assert "already runs" in second.stdout
    assert stack.state() == before


def test_library_uses_the_stack_that_runs_and_leaves_it_running(stack: StackFolder) -> None:
    settings = InfraSettings(home=stack.home)
    with running_stack(settings) as endpoints:
        assert endpoints == resolve(settings)
    assert running_keeper(settings) is not None


@pytest.mark.parametrize("name", ["kafka", "clickhouse", "stripe"])
def test_killed_member_is_repaired_at_the_same_address(stack: StackFolder, name: str) -> None:
    before = stack.member(name)
    assert before.process is not None
    os.kill(before.process.pid, signal.SIGKILL)
    killed = before.process.pid
    wait_for(lambda: is_repaired(stack, name, killed), f"{name} repaired")
    assert stack.member(name).address == before.address
    assert stack.member(name).restarts == before.restarts + 1
    assert stack.rentroll("status").returncode == 0


def test_killed_keeper_leaves_no_orphan_and_up_repairs_with_the_same_addresses_and_data(
    stack: StackFolder,
) -> None:
    settings = InfraSettings(home=stack.home)
    before = resolve(settings)
    client = connect(before.clickhouse_url, before.clickhouse_database)
    client.command("CREATE TABLE IF NOT EXISTS kept (n Int64) ENGINE = MergeTree ORDER BY n")
    client.command("INSERT INTO kept VALUES (7)")
    client.close()
    keeper = running_keeper(settings)
    assert keeper is not None
    keeper.kill()
    wait_for(lambda: stack.processes() == [], "every member gone with its keeper", timeout_s=5)
    assert stack.rentroll("status").returncode == 1
    up = stack.rentroll("up", "--detach")
    assert up.returncode == 0, up.stderr
    assert resolve(settings) == before
    client = connect(before.clickhouse_url, before.clickhouse_database)
    assert client.query("SELECT max(n) FROM kept").first_row == (7,)
    assert {topic.name for topic in TOPICS} <= topics(before.kafka_bootstrap)


def test_down_stops_every_process_and_frees_every_port(stack: StackFolder) -> None:
    ports = stack.state().ports
    down = stack.rentroll("down")
    assert down.returncode == 0, down.stderr
    assert stack.processes() == []
    assert all(is_free(port) for port in ports.values())
    assert stack.state().endpoints == {}
    assert stack.rentroll("status").returncode == 1
    assert "no stack runs" in stack.rentroll("down").stdout


def test_two_stacks_run_side_by_side(stack: StackFolder, tmp_path: Path) -> None:
    other = StackFolder(tmp_path)
    up = other.rentroll("up", "--detach")
    try:
        assert up.returncode == 0, up.stderr
        mine, theirs = stack.state(), other.state()
        assert set(mine.ports.values()).isdisjoint(theirs.ports.values())
        assert stack.rentroll("status").returncode == 0
        assert other.rentroll("status").returncode == 0
        ours = connect(mine.endpoints["clickhouse_url"])
        ours.command("CREATE DATABASE IF NOT EXISTS only_in_the_first")
        databases = connect(theirs.endpoints["clickhouse_url"]).query("SHOW DATABASES").result_rows
        assert ("only_in_the_first",) not in databases
    finally:
        other.rentroll("down")
    assert other.processes() == []
    assert stack.rentroll("status").returncode == 0
