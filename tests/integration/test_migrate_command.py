"""`rentroll migrate` as a person runs it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.clickhouse.client import connect

Migrate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def database(clickhouse_url: str) -> Iterator[str]:
    """A database that is not there; dropped afterwards."""
    name = f"migrate_command_{os.getpid()}"
    yield name
    with connect(clickhouse_url, "default") as client:
        client.command(f"DROP DATABASE IF EXISTS {name} SYNC")


@pytest.fixture
def rentroll_migrate(
    clickhouse_url: str, database: str, blank_store_url: str, tmp_path: Path
) -> Migrate:
    """Runs the command against real servers, in a folder without a project."""
    environment = os.environ | {
        "RENTROLL_CLICKHOUSE_URL": clickhouse_url,
        "RENTROLL_CLICKHOUSE_DATABASE": database,
        "RENTROLL_STORE_URL": blank_store_url,
        "RENTROLL_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "RENTROLL_STRIPE_API_BASE": "http://127.0.0.1:1",
        "COLUMNS": "160",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rentroll", "migrate", *arguments],
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env=environment,
            text=True,
            timeout=60,
        )

    return run


def test_migrate_shows_what_it_would_do_then_does_it_then_has_nothing_to_do(
    rentroll_migrate: Migrate, clickhouse_url: str, database: str
) -> None:
    dry, first, second = rentroll_migrate("--dry-run"), rentroll_migrate(), rentroll_migrate()
    assert [run.stderr for run in (dry, first, second)] == ["", "", ""]
    assert "Migrations would be applied" in dry.stdout
    assert "Migrations applied" in first.stdout
    for shown in ("0001: The billing store", "0001_ledger.sql (5", "0002_rollups.sql (3"):
        assert shown in dry.stdout
        assert shown in first.stdout
    assert second.stdout == "Ledger and billing store are at the newest schema.\n"
    with connect(clickhouse_url, database) as client:
        assert client.command("SELECT count() FROM usage_hourly") == 0


def test_help_shows_an_example(rentroll_migrate: Migrate) -> None:
    assert "rentroll migrate --dry-run" in rentroll_migrate("--help").stdout
