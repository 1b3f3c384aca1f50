"""A request to stop: made by a signal handler that interrupts whatever waits for it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from infra.stop_request import StopRequest

STORM = """
import os, signal, threading
from infra.stop_request import StopRequest

stop = {kind}()
signal.signal(signal.SIGUSR1, lambda *_: stop.set())
print(os.getpid(), flush=True)
for _ in range(3_000):
    while not stop.wait(1e-6):
        pass
    stop = {kind}()
os._exit(7)
"""


def storm(kind: str) -> int | None:
    """Exit status of a process that waits while signals rain on it; None if it hangs."""
    with subprocess.Popen(
        [sys.executable, "-c", STORM.format(kind=kind)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        deadline_s = time.monotonic() + 10
        while waiting.poll() is None and time.monotonic() < deadline_s:
            os.kill(waiting.pid, signal.SIGUSR1)
            time.sleep(0.0001)
        found = waiting.poll()
        waiting.kill()
    return found


def test_signal_that_interrupts_the_wait_itself_is_heard() -> None:
    assert storm("StopRequest") == 7


def test_same_storm_stops_an_event_in_its_own_lock() -> None:
    # It hangs, or dies of the handlers that pile up in the lock; how it ends is Python's affair.
    assert storm("threading.Event") != 7


@pytest.fixture
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("handler")
def test_signal_asks_once_and_for_all() -> None:
    stop = StopRequest()
    stop.on([signal.SIGUSR1])
    assert not stop.is_set()
    assert not stop.wait(0)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.wait(5)
    assert stop.wait(0)
    assert stop.is_set()


def test_every_thread_that_waits_is_told() -> None:
    stop = StopRequest()
    told: list[bool] = []
    waiting = [threading.Thread(target=lambda: told.append(stop.wait(30))) for _ in range(8)]
    for one in waiting:
        one.start()
    stop.set()
    for one in waiting:
        one.join()
    assert told == [True] * 8
