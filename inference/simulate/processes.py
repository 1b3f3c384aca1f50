"""Runs independent tasks side by side in processes, with progress, and in one where that is all."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import TypeVar

from schemas.errors import RentrollError, ServerError

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task, Callable[[int], None]], Result]
"""Does one task; calls its second argument with the amount done since the last call."""


def side_by_side(
    shares: Sequence[Sequence[Task]], work: Work[Task, Result], on_amount: Callable[[int], None]
) -> list[list[Result]]:
    """Do every share of tasks, each in a process of its own; a single share in this one.

    Results do not depend on how many processes there are.

    Args:
        shares: Tasks per process.
        work: A module-level function, or a `partial` of one: it may have to be sent over.
        on_amount: Called in this process, with amounts as they are done.

    Returns:
        Results in the order of the tasks.

    Raises:
        RentrollError: What a task raised.
        ServerError: If a process died.
    """
    if len(shares) == 1:
        return [[work(task, on_amount) for task in shares[0]]]
    # A fork copies nothing and starts in milliseconds, but only a single-threaded process may.
    alone = threading.active_count() == 1 and hasattr(os, "fork")
    context = multiprocessing.get_context("fork" if alone else "spawn")
    links: list[Connection] = []
    processes = []
    for share in shares:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work_on, args=(share, work, theirs), daemon=True)
        process.start()
        theirs.close()
        links.append(ours)
        processes.append(process)
    try:
        return _collect(links, on_amount)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _collect(links: Sequence[Connection], on_amount: Callable[[int], None]) -> list[list[Result]]:
    results: dict[int, list[Result]] = {}
    open_links = {id(link): index for index, link in enumerate(links)}
    while len(results) < len(links):
        waiting = [link for link in links if open_links[id(link)] not in results]
        for link in wait(waiting):
            try:
                message = link.recv()  # type: ignore[union-attr]
            except EOFError as error:
                raise ServerError("a simulating process died; its standard error says why") from error
            if isinstance(message, RentrollError):
                raise message
            if isinstance(message, int):
                on_amount(message)
            else:
                results[open_links[id(link)]] = message
    return [results[index] for index in range(len(links))]


def _work_on(share: Sequence[Task], work: Work[Task, Result], link: Connection) -> None:
    try:
        link.send([work(task, link.send) for task in share])
    except RentrollError as error:
        link.send(error)


def worker_count(wanted: int) -> int:
    """How many processes to use: as wanted, else one per core that this process may use."""
    return wanted or len(os.sched_getaffinity(0))
