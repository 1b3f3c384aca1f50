"""A deterministic asyncio loop: virtual time, several workers in it, each can die at any await.

Inside one worker callbacks run in their order, as in asyncio; which worker runs next, and how
long everything outside takes, is drawn from the seed. There is no real time, thread or socket.
"""

import asyncio
import contextvars
import heapq
import itertools
import random
from asyncio import events
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine
from typing import Any, Self

LIFE: contextvars.ContextVar[int] = contextvars.ContextVar("life", default=0)
"""Whose callback it is; 0 is the world outside, which never dies."""
WORLD = 0
_STEPS_MAX = 60_000
_BURIALS = 3


class Stuck(Exception):  # noqa: N818 - a finding, not an error
    """The schedule does not come to its end."""


class _Step:
    """A callback that waits, as asyncio's handle."""

    __slots__ = ("_when", "args", "callback", "context", "is_cancelled", "life")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        when: float,
    ) -> None:
        self.callback, self.args, self._when = callback, args, when
        self.context = contextvars.copy_context() if context is None else context
        self.life = self.context.get(LIFE, WORLD)
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self._when


class _Task(asyncio.Task[Any]):
    """A task whose place in a set is the same in every run."""

    __slots__ = ("number",)
    number: int

    def __hash__(self) -> int:
        return self.number


class Universe(asyncio.AbstractEventLoop):
    """The loop. `steps` counts the callbacks that ran, `at_step` holds what happens at which."""

    def __init__(self, luck: random.Random) -> None:
        self.luck = luck
        self.steps = 0
        self.at_step: dict[int, list[Callable[[], None]]] = {}
        self.complaints: list[str] = []
        self._now_s = 0.0
        self._ready: dict[int, deque[_Step]] = {WORLD: deque()}
        self._timers: list[tuple[float, int, _Step]] = []
        self._counter = itertools.count()
        self._dead: set[int] = set()
        self._paused: set[int] = set()
        self._tasks: list[_Task] = []
        self._buried: list[_Step] = []
        """Callbacks of the dead: they run at the very end, to throw away what they hold."""
        self._over = False

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self._now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._over:
            self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> _Step:
        step = _Step(callback, args, context, self._now_s)
        if step.life in self._dead:
            self._buried.append(step)
        else:
            self._ready[step.life].append(step)
        return step

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> _Step:
        step = _Step(callback, args, context, when)
        heapq.heappush(self._timers, (when, next(self._counter), step))
        return step

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> _Step:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        task = _Task.__new__(_Task)
        task.number = len(self._tasks)
        _Task.__init__(task, coro, loop=self, name=name or "task", context=context)
        self._tasks.append(task)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run it in one go some time later; its answer comes some time after that."""
        future = self.create_future()

        def run() -> None:
            try:
                result, error = func(*args), None
            except Exception as caught:
                result, error = None, caught
            self.call_later(self.latency_s(), answer, result, error)

        def answer(result: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.call_later(self.latency_s(), run)
        return future

    # What happens in the universe.

    def latency_s(self) -> float:
        """Of one way of one message: mostly short, rarely long."""
        draw = self.luck.random()
        return draw * 0.02 if draw < 0.9 else draw * self.luck.choice((0.1, 0.5, 2.0))

    def enter(self, life: int, start: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Begin a worker's life."""
        self._ready[life] = deque()
        context = contextvars.copy_context()
        context.run(LIFE.set, life)
        self.call_soon(lambda: self.create_task(start()), context=context)

    def kill(self, life: int) -> None:
        """No callback of that worker runs any more, whatever it waits for."""
        self._dead.add(life)
        self._buried.extend(self._ready.pop(life, ()))

    def pause(self, life: int) -> None:
        """Nothing of that worker runs until it goes on."""
        self._paused.add(life)

    def go_on(self, life: int) -> None:
        self._paused.discard(life)

    def run_until(self, done: Callable[[], bool], deadline_s: float) -> None:
        """Step until `done` holds, looked at every so often.

        Raises:
            Stuck: If it does not before that much virtual time has passed.
        """
        deadline_s += self._now_s
        while True:
            if self.steps % 16 == 0 and done():
                return
            if self._now_s > deadline_s or self.steps > _STEPS_MAX:
                raise Stuck
            if not self.step():
                if done():
                    return
                raise Stuck

    def step(self) -> bool:
        """Run one callback; whether anything is left that could ever run."""
        self.steps += 1
        for event in self.at_step.pop(self.steps, ()):
            event()
        lives = [one for one, steps in self._ready.items() if steps and one not in self._paused]
        if not lives:
            return self._pass_time()
        life = lives[0] if len(lives) == 1 else self.luck.choice(lives)
        step = self._ready[life].popleft()
        if not step.is_cancelled:
            step.context.run(step.callback, *step.args)
        return True

    def _pass_time(self) -> bool:
        if not self._timers and self.at_step:
            self.steps = min(self.at_step) - 1  # nobody lives: go to what happens next
        while self._timers:
            when, _, step = heapq.heappop(self._timers)
            if not step.is_cancelled and step.life not in self._dead:
                self._now_s = max(self._now_s, when)
                self._ready[step.life].append(step)
                return True
        return bool(self.at_step)

    def __enter__(self) -> Self:
        events._set_running_loop(self)
        return self

    def __exit__(self, *_exception: object) -> None:
        """Cancel whatever waits, the dead's too: else their coroutines complain when collected."""
        self._over = True
        self._dead.clear()
        left = [step for steps in self._ready.values() for step in steps] + self._buried
        self._ready = defaultdict(deque, {WORLD: deque(left)})
        for _ in range(_BURIALS):
            for task in self._tasks:
                if not task.done():
                    task.cancel()
            while any(self._ready.values()):
                for steps in list(self._ready.values()):
                    while steps:
                        step = steps.popleft()
                        if not step.is_cancelled:
                            step.context.run(step.callback, *step.args)
        events._set_running_loop(None)
