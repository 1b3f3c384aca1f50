"""What the commands about the archive and about replays show."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from schemas.ids import format_ms
from schemas.periods import hour_text

if TYPE_CHECKING:
    from streams.archive import Archive
    from streams.archive_verifying import Verification
    from streams.replay import Replayed
    from streams.replay_comparing import Difference

_PREFIX = 12
_DIFFERENCES_SHOWN = 20


@contextmanager
def steps_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar that is told a step's name, and how much of how much is done."""
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=max(total, done))

        yield show


def verification_text(found: "Verification", *, with_store: bool) -> Text:
    """The verdict, every partition's first fault, and what is noted beside."""
    text = Text()
    for fault in found.faults:
        text.append(f"{fault}\n", style="red")
    looked = f"{found.entries:,} entries, {found.records:,} records, {found.file_bytes:,} bytes"
    if found.faults:
        text.append(f"not sound: {len(found.faults)} partitions with a fault; {looked} were right")
    else:
        text.append("sound", style="bold green")
        text.append(f": {looked} in {len(found.heads)} partitions")
    if found.late:
        text.append(f"; the archive began {found.late:,} offsets late")
    if found.leftovers:
        text.append(f"; {found.leftovers} files of ranges that were cut off, which nothing names")
    if not with_store:
        text.append("; not held to the billing store: a cut end would not show")
    return text


def partitions_table(archive: "Archive") -> Table:
    """Every partition's chain in one line."""
    table = _table("Archive", ("Partition", "Entry"), ("Entries", "Until", "Records", "Bytes"))
    for place in archive.places():
        entries = list(archive.entries(place))
        head = archive.head(place)
        table.add_row(
            f"{place[0]}/{place[1]}",
            head.sha256[:_PREFIX],
            f"{len(entries):,}",
            f"{head.end:,}",
            f"{sum(one.records for one in entries):,}",
            f"{sum(one.file_bytes for one in entries):,}",
        )
    return table


def files_table(archive: "Archive") -> Table:
    """Every range with its file."""
    table = _table("Archive", ("Partition", "Taken by the broker", "File"), ("Range", "Records"))
    for place in archive.places():
        for one in archive.entries(place):
            times = f"{format_ms(one.first_timestamp_ms)} … {format_ms(one.last_timestamp_ms)}"
            table.add_row(
                f"{place[0]}/{place[1]}",
                times if one.records else "",
                one.file or "(gone from the log before it was archived)",
                f"{one.start:,} to {one.end:,}",
                f"{one.records:,}",
            )
    return table


def replay_text(replayed: "Replayed", what: str) -> Text:
    """*identical*, or the first difference of each hour that differs."""
    different = [hour for hour in replayed.hours if hour.difference is not None]
    text = Text()
    for hour in different[:_DIFFERENCES_SHOWN]:
        text.append(f"{hour_text(hour.hour_ms)}  run {hour.run_id[:_PREFIX]}  ", style="red")
        if hour.difference is not None:
            text.append(f"{_difference(hour.difference)}\n")
    if len(different) > _DIFFERENCES_SHOWN:
        text.append(f"and {len(different) - _DIFFERENCES_SHOWN} more\n")
    if different:
        text.append("different", style="bold red")
        text.append(f": {len(different)} of {len(replayed.hours)} runs of {what}")
    else:
        text.append("identical", style="bold green")
        text.append(
            f": {len(replayed.hours)} runs of {what},"
            f" {sum(hour.events for hour in replayed.hours):,} events"
        )
    loaded = replayed.loaded
    text.append(
        f"; replayed {loaded.records:,} records,"
        f" {loaded.refused_records:,} of them refused as before"
    )
    return text


def _difference(found: "Difference") -> str:
    return (
        f"{found.table} {found.subject}, {found.field}:"
        f" published {found.published}, replayed {found.replayed}"
    )


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in left:
        table.add_column(heading, overflow="fold")
    for heading in right:
        table.add_column(heading, justify="right")
    return table
