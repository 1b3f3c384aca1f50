"""Shares of work in processes: what a process that dies, or one that fails, leaves behind."""

import multiprocessing
import os
import signal
from collections.abc import Callable

import pytest

from inference.simulate.processes import side_by_side
from schemas.errors import RentrollError, ServerError, SpoolFullError

LAST = 3


def work(task: int, on_amount: Callable[[int], None]) -> int:
    if task < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 0:
        raise SpoolFullError("full")
    on_amount(task)
    return task * task


def test_results_and_amounts_are_those_of_all_processes() -> None:
    amounts: list[int] = []
    assert side_by_side([[1, 2], [LAST]], work, amounts.append) == [[1, 4], [9]]
    assert sorted(amounts) == [1, 2, 3]


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [(-1, ServerError, "a simulating process died"), (0, SpoolFullError, "full")],
    ids=["killed", "refused"],
)
def test_a_process_that_cannot_go_on_ends_all_of_them(
    bad: int, error: type[RentrollError], words: str
) -> None:
    with pytest.raises(error, match=words):
        side_by_side([[1], [bad], [2]], work, lambda _: None)
    assert not multiprocessing.active_children()
