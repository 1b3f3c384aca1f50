"""A redrive as a process of its own, which can be told to die at a step, by `kill -9`."""

import argparse
import subprocess
import sys
from collections.abc import Sequence

from infra.clickhouse.client import connect
from infra.kafka.records import TopicRecords
from infra.store.decisions import Decider
from infra.store.engine import open_store
from streams.dead_letter_book import letter_at
from streams.redrive import redrive
from tests.support.ingest_process import ROOT, die_at


def run_redrive(
    kafka: str, clickhouse: str, database: str, store_url: str, places: Sequence[str], at: str = ""
) -> int:
    """Redrive some letters in a process; `at` is a step at which it dies. Its exit status."""
    command = [sys.executable, "-m", "tests.support.redrive_process"]
    command += [kafka, clickhouse, database, store_url, *places, "--die-at", f"{at or 'never'}:1"]
    return subprocess.run(command, cwd=ROOT, check=False, timeout=120).returncode


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("kafka", "clickhouse", "database", "store_url"):
        parser.add_argument(name)
    parser.add_argument("places", nargs="+")
    parser.add_argument("--die-at", required=True)
    asked = parser.parse_args()
    client = connect(asked.clickhouse, asked.database)
    store = open_store(asked.store_url)
    chosen = [letter_at(client, store, place) for place in asked.places]
    who = Decider("ada", "the check is gone", 7)
    list(redrive(client, store, TopicRecords(asked.kafka), chosen, who, hook=die_at(asked.die_at)))


if __name__ == "__main__":
    main()
