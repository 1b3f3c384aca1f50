"""Shows how far a long run is: one line per stage, a bar while it works, its time when done."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """What a run tells whoever watches it."""

    def show(self, what: str, done: int, total: int) -> None:
        """Say how much of what is done; a total of 0 is unknown."""
        ...

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Everything within is one stage."""
        ...


class ConsoleProgress:
    """Bars on a terminal; on anything else only the line per stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, visible=False)

    def show(self, what: str, done: int, total: int) -> None:
        """Move the bar."""
        self._bar.update(
            self._task, description=what, completed=done, total=total or None, visible=True
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A bar while it runs, one line with its time when it is done."""
        began_s = time.monotonic()
        self._bar.reset(self._task, total=None, description=name, visible=True)
        with self._bar:
            yield
        spent_s = time.monotonic() - began_s
        self._console.print(f"[green]✓[/] {name:<14}[dim]{spent_s:6.1f} s[/]", highlight=False)
