"""A host's outbox as a process of its own, for tests that kill it: spool in, Kafka out."""

import sys
import time
from pathlib import Path

from inference.outbox import Outbox
from inference.publisher import Publisher
from inference.settings import InferenceSettings
from tests.support.simulated import START_MS, identity

FINISHED = "finished"
"""Whoever writes the spool leaves this file beside it when nothing more will come."""


def main(folder: Path, bootstrap: str) -> None:
    settings = InferenceSettings.model_validate({"outbox_batch_records": 50})
    outbox = Outbox(folder, identity(), settings, opened_ms=START_MS)
    publisher = Publisher([folder], bootstrap, settings)
    sys.stdout.write("running\n")
    sys.stdout.flush()
    while True:
        finished = (folder / FINISHED).exists()
        taken = outbox.drain(folder / "spool") if not outbox.closed else 0
        if finished and not taken:
            outbox.close_source("drained", now_ms=START_MS)
        sent = publisher.step()
        if outbox.closed and not sent and not publisher.unpublished():
            break
        if not taken and not sent:
            time.sleep(0.005)
    publisher.close()
    outbox.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
