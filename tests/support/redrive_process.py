"""Redrives in children of one process, each killed at a step, by `kill -9`.

The children are forked after the imports, so that a kill costs little and is real all the same.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping

from infra.clickhouse.client import connect
from infra.kafka.records import TopicRecords
from infra.store.decisions import Decider
from infra.store.engine import open_store
from streams.dead_letter_book import letter_at
from streams.redrive import redrive
from tests.support.ingest_process import ROOT, die_at

WHO = Decider("ada", "the check is gone", 7)


def killed_redrives(servers: Mapping[str, str], places: Mapping[str, str]) -> dict[str, int]:
    """Redrive one letter for each step, in a process that dies there.

    Args:
        servers: `kafka`, `clickhouse`, `database` and `store_url`.
        places: The letter for each step.

    Returns:
        Minus the signal that ended each, or its exit status.
    """
    command = [sys.executable, "-m", "tests.support.redrive_process", json.dumps(dict(servers))]
    done = subprocess.run(
        [*command, json.dumps(dict(places))],
        cwd=ROOT,
        check=True,
        timeout=300,
        stdout=subprocess.PIPE,
        text=True,
    )
    statuses: dict[str, int] = json.loads(done.stdout)
    return statuses


def redrive_one(servers: Mapping[str, str], step: str, place: str) -> None:
    """One life, which ends at the step."""
    client = connect(servers["clickhouse"], servers["database"])
    store = open_store(servers["store_url"])
    log, chosen = TopicRecords(servers["kafka"]), [letter_at(client, store, place)]
    list(redrive(client, store, log, chosen, WHO, hook=die_at(f"{step}:1")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("servers", type=json.loads)
    parser.add_argument("places", type=json.loads)
    asked = parser.parse_args()
    statuses = {}
    for step, place in asked.places.items():
        child = os.fork()
        if child == 0:
            status = 1
            try:
                redrive_one(asked.servers, step, place)
                status = 0
            finally:
                os._exit(status)
        statuses[step] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.stdout.write(json.dumps(statuses))


if __name__ == "__main__":
    main()
