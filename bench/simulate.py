"""How many events a second the simulator puts on disk, against bare JSON in the same run.

    python -m bench.simulate [TRACE.csv]

Everything counts: reading the trace, planning, engines, attribution, outbox, signatures and every
fsync. The reference writes the same request rows with `json.dumps`, one file, one fsync.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from inference.outbox import OutboxReader
from inference.publisher import outbox_folders
from inference.simulate.emitted import Emitted
from inference.simulate.processes import worker_count
from inference.simulate.run import SAMPLE_TRACE, plan_trace, simulate
from schemas.periods import parse_period

TARGET_EVENTS_PER_S = 20_000
RUNS = 3


def run(trace: Path, folder: Path, seed: int) -> tuple[Emitted, float]:
    """One whole simulation and its wall seconds."""
    began_s = time.perf_counter()
    plan = plan_trace(trace, seed=seed, when=parse_period("2026-10"))
    emitted = simulate(plan, folder)
    return emitted, time.perf_counter() - began_s


def reference(values: list[dict[str, object]], folder: Path) -> float:
    """Wall seconds to write the same events with `json.dumps`, durable at the end."""
    began_s = time.perf_counter()
    with (folder / "reference.jsonl").open("w") as file:
        for value in values:
            file.write(json.dumps(value) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began_s


def main() -> None:
    """Print bytes per event, events a second, and the ratio to the reference."""
    trace = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLE_TRACE
    with tempfile.TemporaryDirectory(prefix="rentroll-bench-") as name:
        folder = Path(name)
        runs = [run(trace, folder, seed) for seed in range(RUNS)]
        emitted, best_s = min(runs, key=lambda one: one[1])
        values = []
        for outbox in outbox_folders(emitted.folder):
            reader = OutboxReader(outbox)
            values += [json.loads(row.value) for row in reader.read(0, 10_000_000)]
            reader.close()
        reference_s = min(reference(values, folder) for _ in range(RUNS))
    records, requests = emitted.counts.records, emitted.events
    print(f"trace               {trace.name}: {requests:,} requests, {worker_count(0)} processes")
    print(f"events              {records:,} of {emitted.counts.value_bytes // records} bytes")
    print(f"wall                {best_s:.2f} s, the best of {RUNS}")
    print(f"events/s            {records / best_s:,.0f} (target {TARGET_EVENTS_PER_S:,})")
    print(f"  request.finished  {requests / best_s:,.0f}")
    print(f"reference           {records / reference_s:,.0f} events/s: json.dumps, write, fsync")
    print(f"ratio               {reference_s / best_s:.2f} of the reference")


if __name__ == "__main__":
    main()
