"""A sidecar as a process of its own, to be killed: `python -m tests.support.sidecar_process`."""

import sys

from inference.settings import InferenceSettings
from inference.sidecar import Sidecar
from schemas.clock import SystemClock


def main() -> None:
    """Merge without end, as fast as it goes."""
    sidecar = Sidecar(InferenceSettings(), SystemClock())
    sys.stdout.write("merging\n")
    sys.stdout.flush()
    while True:
        sidecar.merge_round()


if __name__ == "__main__":
    main()
