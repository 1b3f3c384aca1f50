"""CPU time of the metering hooks per engine step and request, without an engine.

`python -m bench.metering_hooks` steps the real books with a real spool: what vLLM's loop pays.
Best of several runs in thread CPU time, so that a busy machine tells much the same.
"""

import tempfile
import time
from pathlib import Path

from inference.attribution import EngineProfile
from inference.attribution_models import attribution_model
from inference.engine_books import EngineBooks
from inference.engine_meter import EngineMeter
from inference.engine_records import EngineBoot, RequestFacts
from inference.settings import InferenceSettings
from inference.spool import Spool
from schemas.ids import derived_uuid, uuid7
from schemas.units import NS_PER_MS, NS_PER_S

START_NS = 1_790_812_800 * NS_PER_S
STEPS = 2_000
RUNS = 5
NS_PER_US = 1_000


def books_in(folder: Path) -> EngineBooks:
    """Books with the default settings."""
    settings = InferenceSettings(host_folder=folder)
    boot = EngineBoot(
        engine=derived_uuid("bench", str(folder)),
        host="bench",
        pid=1,
        model="bench",
        replica="r0",
        region="local",
        gpu_type="cpu",
        gpus=1,
        attribution_model="fixed_marginal.2",
        software="bench",
        start_unix_ns=START_NS,
        unix_less_mono_ns=0,
    )
    meter = EngineMeter(
        gpus=1,
        profile=EngineProfile(16 * 10**9, 131_072, 16 * 10**9, 524_288, 2 * 10**12, 5 * 10**14, 0),
        model=attribution_model(settings.attribution),
        start_ns=START_NS,
        stall_cap_ns=settings.step_cap_ns,
        interval_ns=settings.interval_s * NS_PER_S,
    )
    difference_ns = START_NS - time.monotonic_ns()
    return EngineBooks(
        boot,
        meter,
        Spool(folder / "spool", settings),
        settings,
        now_ns=lambda: time.monotonic_ns() + difference_ns,
        generated=lambda _: 0,
    )


def step_ns(batch: int, folder: Path) -> int:
    """CPU ns per decoding step of `batch` requests: schedule, results, writing out."""
    books = books_in(folder)
    names = [f"cmpl-{number}" for number in range(batch)]
    for number, name in enumerate(names):
        books.add(RequestFacts(uuid7(START_NS // NS_PER_MS, number), name, 100))
    books.scheduled(names, [100] * batch, [0] * batch)
    books.step_done()
    # Contexts of different lengths, as they are: equal ones have equal remainders, and ties cost.
    contexts = [100 + 7 * number for number in range(batch)]
    began_ns = time.thread_time_ns()
    for step in range(STEPS):
        books.scheduled(list(names), [1] * batch, [step + one for one in contexts])
        books.step_done()
        books.write_out()
    return (time.thread_time_ns() - began_ns) // STEPS


def request_ns(folder: Path) -> int:
    """CPU ns per request that comes and goes, its part written to the spool."""
    books = books_in(folder)
    began_ns = time.thread_time_ns()
    for number in range(STEPS):
        name = f"cmpl-{number}"
        books.add(RequestFacts(uuid7(START_NS // NS_PER_MS, number), name, 100))
        books.scheduled([name], [100], [0])
        books.step_done()
        books.finish(name, 1, "length")
        books.write_out()
    return (time.thread_time_ns() - began_ns) // STEPS


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for batch in (1, 16, 25, 64, 256):
            found = min(step_ns(batch, root / f"{batch}-{run}") for run in range(RUNS))
            each = found // batch
            print(f"batch {batch:4d}: {found / NS_PER_US:7.1f} us a step, {each:5d} ns a request")
        found = min(request_ns(root / f"one-{run}") for run in range(RUNS))
        print(f"a request with one step: {found / NS_PER_US:.1f} us")


if __name__ == "__main__":
    main()
