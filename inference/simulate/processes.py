"""Runs independent tasks side by side in processes, with progress; one share runs right here."""

import gc
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, SpawnContext
from typing import Any, TypeVar

from schemas.errors import RentrollError, ServerError

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task, Callable[[int], None]], Result]
"""Does one task; calls its second argument with the amount done since the last call."""


def side_by_side(
    shares: Sequence[Sequence[Task]], work: Work[Task, Result], on_amount: Callable[[int], None]
) -> list[list[Result]]:
    """Do every share of tasks, each in a process of its own; the only share in this one.

    Results do not depend on how many processes there are.

    Args:
        shares: Tasks per process.
        work: A module-level function, or a `partial` of one: it may have to be sent over.
        on_amount: Called in this process, with amounts as they are done.

    Returns:
        Results per share, in the order of its tasks.

    Raises:
        RentrollError: What a task raised.
        ServerError: If a process died.
    """
    if len(shares) == 1:
        return [[work(task, on_amount) for task in shares[0]]]
    context = _context()
    links: list[Connection] = []
    processes = []
    try:
        for share in shares:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work_on, args=(share, work, theirs), daemon=True)
            process.start()
            theirs.close()
            links.append(ours)
            processes.append(process)
        return _collect(links, on_amount)
    finally:
        for link in links:
            link.close()
        for process in processes:
            process.terminate()
            process.join()


def worker_count(wanted: int) -> int:
    """How many processes to use: as wanted, else one per core that this process may use.

    They compute, and seldom wait for the disk; more of them only copy more memory and share caches.
    """
    return wanted or len(os.sched_getaffinity(0))


def _context() -> ForkContext | SpawnContext:
    """A fork copies nothing and starts in milliseconds, but only a process of one thread may."""
    if threading.active_count() == 1:
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context("spawn")


def _collect(links: Sequence[Connection], on_amount: Callable[[int], None]) -> list[Any]:
    results: list[Any] = [None] * len(links)
    waiting = {link: index for index, link in enumerate(links)}
    while waiting:
        for link in wait(list(waiting)):
            if not isinstance(link, Connection):
                continue
            try:
                message = link.recv()
            except EOFError as error:
                raise ServerError("a simulating process died, see its output above") from error
            if isinstance(message, RentrollError):
                raise message
            if isinstance(message, int):
                on_amount(message)
            else:
                results[waiting.pop(link)] = message
    return results


def _work_on(share: Sequence[Task], work: Work[Task, Result], link: Connection) -> None:
    # This process ends with its share, and nothing in it makes cycles: collecting only costs.
    gc.disable()
    try:
        link.send([work(task, link.send) for task in share])
    except RentrollError as error:
        link.send(error)
