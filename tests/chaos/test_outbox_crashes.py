"""kill -9 of the outbox at random moments: nothing lost, nothing doubled."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from inference.settings import InferenceSettings
from inference.spool import Spool
from infra.kafka.topics import ensure_topics
from infra.signing import range_is_signed
from schemas.fleet import RangePurpose, SignedRange
from schemas.ids import content_hash, range_sha256
from tests.support.killable_outbox import FINISHED
from tests.support.simulated import identity, record
from tests.support.topic_reader import read_topics

RECORDS = 3_000
KILLS = 5
SEED = 20_261_124


def start(folder: Path, bootstrap: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.killable_outbox", str(folder), bootstrap],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def write_spool(folder: Path, alive: threading.Event) -> None:
    """A writer that is never killed, in bursts, with an interval now and then."""
    spool = Spool(
        folder / "spool", InferenceSettings.model_validate({"spool_segment_bytes": 65536})
    )
    text = '{"text":"' + "x" * 300 + '"}'
    for first in range(0, RECORDS, 20):
        batch = [record(number, text=text) for number in range(first, first + 19)]
        spool.append([*batch, record(first + 19, kind="engine.interval", text=text)])
        alive.wait(0.02)
    spool.close()
    (folder / FINISHED).touch()


@pytest.mark.timeout(180)
def test_killed_outbox_loses_nothing_doubles_nothing_and_stays_dense(
    kafka_bootstrap: str,
) -> None:
    ensure_topics(kafka_bootstrap)
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="rentroll-outbox-") as name:
        folder = Path(name)
        writer = threading.Thread(target=write_spool, args=(folder, threading.Event()))
        writer.start()
        for _ in range(KILLS):
            process = start(folder, kafka_bootstrap)
            time.sleep(chance.uniform(0.0, 0.6))
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        writer.join()
        process = start(folder, kafka_bootstrap)
        process.communicate(timeout=90)
        assert process.returncode == 0
    source = identity().source
    found = read_topics(kafka_bootstrap, ("usage.v1", "capacity.v1", "control.v1"), [source])
    values = {json.loads(one.value)["id"]: one.value for one in found}
    for one in found:
        assert one.value == values[json.loads(one.value)["id"]], "copies are equal"
    events = sorted(map(json.loads, values.values()), key=lambda event: event["sequence"])
    assert [event["sequence"] for event in events] == list(range(1, RECORDS + 3))
    assert {record(number).id for number in range(RECORDS)} <= set(values)
    verify_ranges(events, values)


def verify_ranges(events: list[dict[str, object]], values: dict[str, bytes]) -> None:
    """The ledger alone can verify what the source signed, whatever happened to it."""
    hashes = [content_hash(values[str(event["id"])]) for event in events]
    covered = 0
    for event in events:
        data = event["data"]
        assert isinstance(data, dict)
        if "range" not in data:
            continue
        signed = SignedRange.model_validate_json(json.dumps(data["range"]))
        assert signed.sequence_first == covered + 1
        assert signed.sha256 == range_sha256(hashes[covered : signed.sequence_last])
        purpose: RangePurpose = "closed" if str(event["type"]).endswith("closed.v1") else "interval"
        key = identity().key.public_key_hex()
        assert range_is_signed(key, str(event["source"]), purpose, signed)
        covered = signed.sequence_last
    assert covered == len(events) - 1
