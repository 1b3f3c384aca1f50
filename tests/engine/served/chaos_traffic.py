"""Mixed traffic for a host that is killed: every way for a request to end, of four tenants."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.engine.served.chaos_host import FORGED, LIMITED, TENANTS, ChaosHost
from tests.engine.served.leaving import LEAVING
from tests.engine.served.traffic import (
    CHAT,
    COMPLETIONS,
    KINDS,
    WITH_USAGE,
    Seen,
    Send,
    chat,
    completion,
    send_one,
    stream,
    whole,
    words,
)

SOME_TOKENS = list(range(3, 260))
"""A random model soon takes one of these: it then stops by itself."""


MORE: list[tuple[str, Send]] = [
    *LEAVING,
    (
        "stop token",
        lambda h, d, k, s: whole(
            h, k, s, COMPLETIONS, completion(d, max_tokens=300, stop_token_ids=SOME_TOKENS)
        ),
    ),
    (
        "stop string stream",
        lambda h, d, k, s: stream(
            h, k, s, CHAT, chat(d, max_tokens=300, stop=["e", "o", "a"], **WITH_USAGE)
        ),
    ),
    ("forged key", lambda h, d, k, s: whole(h, FORGED, s, COMPLETIONS, completion(d))),
    ("no such route", lambda h, d, k, s: whole(h, k, s, "v1/nothing", completion(d))),
    ("too many", lambda h, d, k, s: whole(h, LIMITED, s, COMPLETIONS, completion(d))),
    (
        "tier too high",
        lambda h, d, k, s: whole(h, k, s, CHAT, chat(d, service_tier="priority")),
    ),
    (
        "long",
        lambda h, d, k, s: stream(
            h, k, s, COMPLETIONS, completion(d, max_tokens=d.randint(200, 500))
        ),
    ),
    (
        "four prompts",
        lambda h, d, k, s: stream(
            h, k, s, COMPLETIONS, completion(d, prompt=[words(d, 3) for _ in range(4)], n=2)
        ),
    ),
]
ALL_KINDS = [*KINDS, *MORE]
NAMELESS = {"forged key", "no such route"}
"""Nobody knows whose these are, or nothing was asked for: they make no event."""
BROKEN, BACK_OFF_S = 500, 3.0
"""As OpenAI's client does, nobody comes again at once after a server's error."""
LIMITED_KINDS, FORGED_KINDS = {"too many"}, {"forged key"}


class ChaosTraffic:
    """Seeded requests, several at a time; `begun` says how far it is."""

    def __init__(self, host: ChaosHost, seed: int) -> None:
        self.begun = 0
        self.done = 0
        self._host = host
        self._seed = seed
        self._lock = threading.Lock()

    def run(self, total: int, threads: int, say: Callable[[int], None]) -> list[Seen]:
        """All of them, in a seeded order of kinds; `say` is told how many have ended."""
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda number: self._one(number, say), range(total)))

    def _one(self, number: int, say: Callable[[int], None]) -> Seen:
        dice = random.Random(self._seed * 1_000_003 + number)
        # Each round of kinds in an order of its own, so that they meet in other ways.
        lap, place = divmod(number, len(ALL_KINDS))
        order = random.Random(self._seed * 7_919 + lap).sample(ALL_KINDS, len(ALL_KINDS))
        kind, send = order[place]
        key = LIMITED if kind in LIMITED_KINDS else dice.choice([1, 2, 3])
        tenant = "" if kind in FORGED_KINDS else TENANTS[key]
        with self._lock:
            self.begun += 1
        self._host.serving.wait()
        seen = Seen(kind, tenant, label=f"client {number}")
        send_one(self._host, send, key, seen, dice)
        if seen.status >= BROKEN:
            time.sleep(BACK_OFF_S)
        with self._lock:
            self.done += 1
            say(self.done)
        return seen
