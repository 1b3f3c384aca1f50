"""A request to stop that a signal handler may make, whatever the thread it interrupts is doing."""

import signal
from collections.abc import Iterable
from queue import Empty, SimpleQueue


class StopRequest:
    """Made once and for all by `set`; any number of threads wait for it.

    Not a `threading.Event`: that one takes its lock in `wait` and in `set`. A signal that arrives
    while the main thread holds the lock runs its handler in that thread, and `set` there waits for
    the lock for ever. `SimpleQueue.put` may interrupt any other call of the same queue.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Ask; again is harmless. Safe in a signal handler and from every thread."""
        self._asked.put(None)

    def is_set(self) -> bool:
        """Whether somebody has asked."""
        return not self._asked.empty()

    def wait(self, timeout_s: float) -> bool:
        """Whether somebody has asked, or does within the time."""
        if self.is_set():
            return True
        try:
            self._asked.get(timeout=timeout_s)
        except Empty:
            return False
        # For the next one who looks.
        self._asked.put(None)
        return True

    def on(self, numbers: Iterable[signal.Signals]) -> None:
        """Let these signals ask, from now on; to be called by the main thread."""
        for number in numbers:
            signal.signal(number, lambda *_: self.set())
