"""What the door costs a real API server: its CPU time with the door and without, in paired rounds.

`make bench-door` serves the tiny model twice with stock `vllm serve`, once behind the
door and once bare, both with metered engines. Rounds of the same 48-token chat streams go to one
and the other in turns, several at a time; CPU time is that of all threads of the API server's
process, which a busy machine changes less than the clock. Needs the engine of `make vllm`.
"""

import argparse
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from bench.metering import ratio_of
from tests.engine.served.host import ServedHost, write_model
from tests.engine.served.traffic import CHAT

TOKENS = 48
DOOR = ("--middleware", "inference.middleware.RentrollMiddleware")
_NS_PER_MS = 1_000_000


class BareHost(ServedHost):
    """The same server without the door; nothing of ours is in its API server's process."""

    environment_of_its_own: ClassVar[dict[str, str]] = {"VLLM_PLUGINS": ""}

    def command(self, words: list[str]) -> list[str]:
        return [word for word in words if word not in DOOR]


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process that live."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        spent += int((task / "schedstat").read_text().split()[0])
    return spent


def one_stream(host: ServedHost) -> None:
    """A chat of so many tokens, read to its end."""
    messages = [{"role": "user", "content": "the quick brown fox " * 20}]
    body: dict[str, Any] = {"messages": messages, "max_tokens": TOKENS, "ignore_eos": True}
    answer = host.post(CHAT, stream=True, **body)
    answer.raise_for_status()
    for _ in answer.iter_lines():
        pass


def round_ns(host: ServedHost, streams: int, at_once: int) -> int:
    """CPU time of the API server per stream."""
    before_ns = cpu_ns(host.pid)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda _: one_stream(host), range(streams)))
    return (cpu_ns(host.pid) - before_ns) // streams


def main() -> None:
    """Serve twice, measure in turns, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30, help="pairs of rounds")
    parser.add_argument("--streams", type=int, default=32, help="per round")
    parser.add_argument("--at-once", type=int, default=8, help="clients at a time")
    parser.add_argument("--seed", type=int, default=1, help="of the order of rounds")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="rentroll-bench-") as name:
        folder = Path(name)
        model = write_model(folder / "model")
        hosts: list[ServedHost] = []
        try:
            with console.status("serving the tiny model, twice"):
                for kind in (ServedHost, BareHost):
                    (folder / kind.__name__).mkdir()
                    hosts.append(kind(folder / kind.__name__, model, mark_ms=1_000, interval_s=10))
                for host in hosts:
                    host.wait_ready()
            pairs = []
            began_s = time.monotonic()
            for number in range(options.rounds + 1):
                order = [0, 1]
                dice.shuffle(order)
                took = {
                    which: round_ns(hosts[which], options.streams, options.at_once)
                    for which in order
                }
                # The first pair warms up.
                if number:
                    pairs.append((took[0], took[1]))
        finally:
            for host in hosts:
                host.end()
    ratio = ratio_of([door / bare for door, bare in pairs], dice)
    bare_ms = sorted(bare for _, bare in pairs)[len(pairs) // 2] / _NS_PER_MS
    more_us = sorted(door - bare for door, bare in pairs)[len(pairs) // 2] / 1_000
    print(
        f"{len(pairs)} pairs of {options.streams} streams of {TOKENS} tokens,"
        f" {time.monotonic() - began_s:.0f} s\n"
        f"  a bare API server         {bare_ms:8.2f} ms of CPU a stream\n"
        f"  with the door over bare   {ratio}\n"
        f"  what the door adds        {more_us:8.0f} us a stream"
    )


if __name__ == "__main__":
    main()
