"""CPU time of the metering hooks per engine step and request, without an engine.

`python -m bench.metering_hooks` steps the real books with a real spool: what vLLM's loop pays.
Warm is a loop of nothing else. Cold is what an engine sees: before each hook 8 MB of other memory
are read, as a model does in its step. Best of several runs in thread CPU time, so that a busy
machine tells much the same; --queued 1 tells the meter of each step at once.
"""

import argparse
import tempfile
import time
from itertools import count
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
BEGAN_NS = time.monotonic_ns()
COLD_STEPS = 160
OTHER_BYTES = 8 << 20
RUNS = 5
NS_PER_US = 1_000


def now_ns() -> int:
    """Unix time that begins with this process."""
    return START_NS + time.monotonic_ns() - BEGAN_NS


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
    return EngineBooks(
        boot,
        meter,
        Spool(folder / "spool", settings),
        settings,
        now_ns=now_ns,
        generated=lambda _: 0,
    )


class Other:
    """What an engine does between the hooks, as the caches see it."""

    def __init__(self, size: int) -> None:
        self._memory = bytes(size)

    def read(self) -> None:
        """Go through all of it; what lay in the caches before is gone."""
        self._memory.find(b"\1")


def step_ns(batch: int, books: EngineBooks, *, queued: int, steps: int, other: Other) -> int:
    """CPU ns per decoding step of `batch` requests: schedule, results, writing out."""
    names = [f"cmpl-{number}" for number in range(batch)]
    for number, name in enumerate(names):
        books.add(RequestFacts(uuid7(START_NS // NS_PER_MS, number), name, 100))
    tokens_of = dict.fromkeys(names, 100)
    books.steps.append((now_ns(), tokens_of, [], [], [(name, 0) for name in names]))
    books.steps.append((now_ns(), tokens_of))
    # Contexts of different lengths, as they are.
    contexts = [100 + 7 * number for number in range(batch)]
    spent_ns = 0
    for step in range(steps):
        other.read()
        # vLLM makes these anyway.
        tokens_of, ran = dict.fromkeys(names, 1), list(names)
        computed = [step + one for one in contexts]
        began_ns = time.thread_time_ns()
        books.steps.append((now_ns(), tokens_of, ran, computed, ()))
        spent_ns += time.thread_time_ns() - began_ns
        other.read()
        began_ns = time.thread_time_ns()
        books.steps.append((now_ns(), tokens_of))
        if len(books.steps) >= 2 * queued:
            books.write_out()
        spent_ns += time.thread_time_ns() - began_ns
    return spent_ns // steps


def request_ns(books: EngineBooks) -> int:
    """CPU ns per request that comes and goes, its part written to the spool."""
    began_ns = time.thread_time_ns()
    for number in range(STEPS):
        name = f"cmpl-{number}"
        books.add(RequestFacts(uuid7(START_NS // NS_PER_MS, number), name, 100))
        tokens_of = {name: 100}
        books.steps.append((now_ns(), tokens_of, [], [], [(name, 0)]))
        books.steps.append((now_ns(), tokens_of))
        books.finish(name, 1, "length")
        books.write_out()
    return (time.thread_time_ns() - began_ns) // STEPS


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--queued",
        type=int,
        default=InferenceSettings().queued_steps,
        help="steps that the meter is told at once",
    )
    queued = parser.parse_args().queued
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folders = (root / str(number) for number in count())

        def new_books() -> EngineBooks:
            return books_in(next(folders))

        for batch in (1, 16, 25, 64, 256):
            found = {
                name: min(
                    step_ns(batch, new_books(), queued=queued, steps=steps, other=Other(size))
                    for _ in range(RUNS)
                )
                for name, steps, size in (("warm", STEPS, 0), ("cold", COLD_STEPS, OTHER_BYTES))
            }
            texts = [
                f"{name} {spent / NS_PER_US:6.1f} us a step, {spent // batch:5d} ns a request"
                for name, spent in found.items()
            ]
            print(f"batch {batch:4d}: {'; '.join(texts)}", flush=True)
        spent = min(request_ns(new_books()) for _ in range(RUNS))
        print(f"a request with one step: {spent / NS_PER_US:.1f} us")


if __name__ == "__main__":
    main()
