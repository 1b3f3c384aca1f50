"""A sidecar that begins another source and dies at the n-th step of that, by `kill -9`.

`python -m tests.support.rolling_process N`: a step is whatever Python audits on the way: files that
are opened, made or renamed, and databases that are connected to. It exits with 0 if there is none.
"""

import os
import signal
import sys

from inference.settings import InferenceSettings
from inference.sidecar import Sidecar
from schemas.clock import SystemClock

STEPS = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.listdir", "sqlite3.connect"})


def main(die_at: int) -> None:
    """Merge until there is nothing more, then roll over."""
    sidecar = Sidecar(InferenceSettings(), SystemClock())
    steps = 0
    armed = False

    def on_audited(event: str, _: object) -> None:
        nonlocal steps
        if armed and event in STEPS:
            steps += 1
            if steps == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_audited)
    while True:
        armed = not sidecar.merge_round() and not sidecar.living
        if sidecar.roll_over():
            break
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
