"""The progress bar of `rentroll worker`."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from streams.telemetry import IngestCounters


class ProgressBar:
    """Records in the ledger out of those in the log, on standard error."""

    def __init__(self) -> None:
        from rich.console import Console

        self._progress = Progress(
            TextColumn("ingest"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("records"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("ingest", total=None)

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

    def show(self, counters: "IngestCounters", left: int) -> None:
        """Move to what the counters say; `left` records are still to come."""
        self._progress.update(self._task, completed=counters.records, total=counters.records + left)
