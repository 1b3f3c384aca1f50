"""Work in turns: of one key one after the other, of several keys side by side, and bounded."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable


class Turns:
    """Keeps the order of each key's work while keys overtake one another."""

    def __init__(self, at_once: int) -> None:
        """Start with nothing under way.

        Args:
            at_once: Pieces of work that may be under way, those that wait for their turn included.
        """
        self._slots = asyncio.Semaphore(at_once)
        self._turn_of: defaultdict[Hashable, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._under_way: set[asyncio.Task[None]] = set()

    async def start(self, key: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        """Begin `work` as soon as there is room for it; returns when it has begun.

        Args:
            key: Work of the same key is done in the order of these calls.
            work: Has to say by itself to whoever cares that it failed.
        """
        await self._slots.acquire()
        task = asyncio.ensure_future(self._in_turn(self._turn_of[key], work))
        self._under_way.add(task)
        task.add_done_callback(self._done)

    async def stop(self) -> None:
        """Cancel what is under way, and wait until it has noticed."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _in_turn(self, turn: asyncio.Lock, work: Callable[[], Awaitable[None]]) -> None:
        # A lock lets those that wait pass in the order in which they came.
        async with turn:
            await work()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._slots.release()
        if not task.cancelled():
            # Whoever cares has been told by the work itself; asyncio would else complain to nobody.
            task.exception()
