"""The progress bar of workers that follow the log: `rentroll worker` and `rentroll archive run`."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from streams.archive_worker import ArchiveCounters
    from streams.telemetry import IngestCounters


class ProgressBar:
    """Records that are taken out of those in the log, on standard error."""

    def __init__(self, what: str = "ingest", *, shown: bool = True) -> None:
        from rich.console import Console

        self._progress = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("records"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self._task = self._progress.add_task(what, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, counters: "IngestCounters | ArchiveCounters", left: int) -> None:
        """Move to what the counters say; `left` records are still to come."""
        self._progress.update(self._task, completed=counters.records, total=counters.records + left)
