"""An engine's steps between their report and the meter, which hears of several at once.

Between two steps vLLM goes through all of the processor's caches: every function and object of ours
that a hook touches is fetched from memory, at a tenth of a microsecond for each line. So a hook
appends one tuple, of the time and a few references, and the meter is told of many of them in one
go, warm. It is told the same things with the same times in the same order as it would be at once,
so it says the same to the bit; only later.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal

from inference.attribution import StepWork
from inference.engine_meter import EngineMeter
from schemas.errors import ConservationError

LaunchReport = tuple[
    int, Mapping[str, int], Sequence[str], Sequence[int], Sequence[tuple[str, int]]
]
"""A step was launched, by reference; nobody may change these objects afterwards:
when, in Unix ns;
who is in it, with how many tokens;
those of them that had been in a step before, and how many tokens each of these had by then;
the others, each with the number of its tokens that the cache held."""
DoneReport = tuple[int, Mapping[str, int]]
"""When the results of a step were in, and the second object of its launch."""
StepReport = LaunchReport | DoneReport
DONE_FIELDS: Literal[2] = 2


class QueuedSteps:
    """Reports of launches and ends of steps, in their order.

    Any thread may append to `reports`. One at a time may call the methods.

    Args:
        meter: Who is told of them.
    """

    def __init__(self, meter: EngineMeter) -> None:
        self._meter = meter
        self._in_flight: deque[Mapping[str, int]] = deque()
        self.reports: deque[StepReport] = deque()

    def settle(self) -> None:
        """Tell the meter of all; those behind one that it cannot take are dropped.

        Raises:
            ConservationError: If the meter says so, or steps do not end in their order.
            KeyError: If a launch does not say how many tokens one had before.
        """
        try:
            while self.reports:
                self._tell(self.reports.popleft())
        except BaseException:
            self.drop()
            raise

    def _tell(self, report: StepReport) -> None:
        if len(report) == DONE_FIELDS:
            now_ns, tokens_of = report
            if self._in_flight and self._in_flight.popleft() is not tokens_of:
                raise ConservationError("steps end out of order")
            self._meter.step_done(now_ns)
            return
        self._in_flight.append(report[1])
        self._meter.scheduled(report[0], *step_of(report))

    def drop(self) -> None:
        """Forget what the meter has not been told."""
        self.reports.clear()


def step_of(launch: LaunchReport) -> tuple[list[str], StepWork]:
    """Who is in the step, and what they compute in it, column by column.

    Raises:
        KeyError: If nothing is said of how many tokens one of them had before.
    """
    _, tokens_of, ran, computed, new = launch
    requests = list(tokens_of)
    if new or requests != ran:
        before = dict(zip(ran, computed, strict=True))
        before.update(new)
        computed = [before[one] for one in requests]
    return requests, StepWork(1, list(tokens_of.values()), computed)
