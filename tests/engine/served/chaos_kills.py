"""Which process of a serving host dies when: planned by a seed, then done."""

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from inference.merge import Kind
from infra.process_tree import PROC
from tests.engine.served.chaos_host import ChaosHost, Executor
from tests.support.serve_runs import wait_for

What = Literal[
    "engine",
    "worker",
    "API server",
    "API server and engine",
    "sidecar",
    "supervisor",
    "everything",
    "SIGTERM",
]
WHATS: tuple[What, ...] = (
    "engine",
    "API server",
    "sidecar",
    "SIGTERM",
    "API server and engine",
    "supervisor",
    "everything",
    "worker",
)
STATUS: dict[What, int] = {
    "engine": 1,
    "worker": 1,
    "API server": 1,
    "API server and engine": 1,
    "supervisor": -signal.SIGKILL,
    "everything": -signal.SIGKILL,
    "SIGTERM": 0,
}
"""With what `serve-model` must end."""
_ENDS_S = 200


@dataclass
class Kill:
    """One kill.

    Attributes:
        what: Died, by -9; or the whole run was asked to end while it was busy.
        at_request: Once so many requests have begun,
        wait_s: and this much later.
        at_once: Whether a killed supervisor's successor comes before the orphans have ended.
        at_ns: When it was, Unix time.
        engines: That lived then, by id.
        doors: That lived then, by id.
        status: Of `serve-model`, where it ended.
        away_s: Until the host served again.
    """

    what: What
    at_request: int
    wait_s: float
    at_once: bool
    at_ns: int = 0
    engines: set[str] = field(default_factory=set)
    doors: set[str] = field(default_factory=set)
    status: int | None = None
    away_s: float = 0

    @property
    def name(self) -> str:
        if self.what == "SIGTERM":
            return "SIGTERM while busy"
        return f"kill -9 of {self.what}" + (", restarted at once" if self.is_hasty else "")

    @property
    def is_hasty(self) -> bool:
        return self.at_once and self.what in {"supervisor", "everything"}

    @property
    def ends_the_server(self) -> bool:
        return self.what != "sidecar"


def plan_kills(
    seed: int, requests: int, kills: int, executor: Executor, whats: Sequence[What] = WHATS
) -> list[Kill]:
    """Every kind in turn, in a seeded order, at seeded moments."""
    dice = random.Random(seed * 31 + 7)
    kinds = [what for what in whats if what != "worker" or executor == "mp"]
    whats = [kinds[number % len(kinds)] for number in range(kills)]
    dice.shuffle(whats)
    places = sorted(dice.sample(range(requests // 20, requests * 19 // 20), kills))
    return [
        Kill(what, place, dice.random() * 2, number % 2 == 0)
        for number, (what, place) in enumerate(zip(whats, places, strict=True))
    ]


def strike(host: ChaosHost, kill: Kill, say: Callable[[str], None]) -> None:
    """Kill, and return once the host serves again."""
    marks = host.note_processes()
    alive = {one.pid for one in marks if one.is_alive()}
    engines, doors = _living(host, "engine", alive), _living(host, "door", alive)
    kill.engines, kill.doors = set(engines), set(doors)
    sidecar = host.status()
    began_s = time.monotonic()
    kill.at_ns = time.time_ns()
    if kill.what == "SIGTERM":
        host.signal(signal.SIGTERM)
    elif kill.what == "sidecar":
        host.of("sidecar")[1].kill()
    elif kill.what in {"supervisor", "everything"}:
        host.signal(signal.SIGKILL)
        for one in marks if kill.what == "everything" else []:
            one.kill()
    else:
        victims = {
            "engine": [*engines.values()],
            "worker": [pid for pid in alive if _is_worker(pid)],
            "API server": [*doors.values()],
            "API server and engine": [*doors.values(), *engines.values()],
        }
        for pid in victims[kill.what]:
            os.kill(pid, signal.SIGKILL)
    if kill.ends_the_server:
        _come_back(host, kill, say)
    else:
        before = sidecar.pid if sidecar else 0
        wait_for(lambda: (now := host.status()) is not None and now.pid != before, "a sidecar", 90)
    kill.away_s = time.monotonic() - began_s


def _come_back(host: ChaosHost, kill: Kill, say: Callable[[str], None]) -> None:
    if kill.what != "SIGTERM":
        host.serving.clear()
    kill.status = host.ended(_ENDS_S)
    host.serving.clear()
    if not kill.is_hasty:
        wait_for(lambda: not host.alive(), "the end of what the dead left", 120)
    say(f"{kill.name}; starting again")
    host.serve()


def _living(host: ChaosHost, kind: Kind, alive: set[int]) -> dict[str, int]:
    return {one: pid for one, pid in host.tap.pids(kind).items() if pid in alive}


def _is_worker(pid: int) -> bool:
    """Whether this process computes for the engine; vLLM calls it so."""
    return (PROC / str(pid) / "cmdline").read_bytes().startswith(b"VLLM::Worker")
