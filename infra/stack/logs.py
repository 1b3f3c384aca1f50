"""Reads the logs of a stack's members, and follows them."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from infra.local_server import last_lines
from infra.settings import InfraSettings
from infra.stack import compose
from infra.stack.state import read_state
from schemas.errors import ServerError

FOLLOW_POLL_S = 0.2
LOGGERS = ("keeper", "kafka", "clickhouse", "store", "stripe", "compose")
"""Whoever may write a log in a stack; a file store and a given server write none."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line and who wrote it."""

    member: str
    text: str


@dataclass(slots=True)
class _Followed:
    """A log file that may be replaced while it is read."""

    member: str
    path: Path
    file: IO[bytes] | None = None
    inode: int = 0
    half_line: bytes = field(default=b"")

    def fresh_lines(self) -> list[LogLine]:
        """Whole lines written since the last call."""
        lines = self._read()
        if self._was_replaced():
            self._open(at_end=False)
            lines += self._read()
        return lines

    def _was_replaced(self) -> bool:
        return self.path.exists() and self.path.stat().st_ino != self.inode

    def _open(self, *, at_end: bool) -> None:
        self.close()
        self.file = self.path.open("rb")
        self.inode = self.path.stat().st_ino
        self.half_line = b""
        if at_end:
            self.file.seek(0, 2)

    def start_at_the_end(self) -> None:
        """Skip what is there already."""
        if self.path.exists():
            self._open(at_end=True)

    def close(self) -> None:
        """Read no more."""
        if self.file is not None:
            self.file.close()

    def _read(self) -> list[LogLine]:
        if self.file is None:
            return []
        *whole, self.half_line = (self.half_line + self.file.read()).split(b"\n")
        return [LogLine(self.member, line.decode(errors="replace")) for line in whole]


def recent(settings: InfraSettings, member: str | None, count: int) -> list[LogLine]:
    """The last `count` lines of every log file of one member, or of all.

    Raises:
        ServerError: If there is no such member, or it has no log.
    """
    found = [
        LogLine(path.parent.name, line)
        for path in log_files(settings, member)
        for line in last_lines(path, count)
    ]
    return found + _of_containers(settings, member)


def follow(settings: InfraSettings, member: str | None) -> Generator[LogLine, None, None]:
    """Lines as they are written, for ever; survives a restart of the member.

    Raises:
        ServerError: If there is no such member, or it has no log.
    """
    followed = [_Followed(path.parent.name, path) for path in log_files(settings, member)]
    for one in followed:
        one.start_at_the_end()
    try:
        while True:
            for one in followed:
                yield from one.fresh_lines()
            time.sleep(FOLLOW_POLL_S)
    finally:
        for one in followed:
            one.close()


def log_files(settings: InfraSettings, member: str | None) -> Sequence[Path]:
    """The log files of one member, or of all."""
    if member is not None and member not in LOGGERS:
        raise ServerError(f"no member {member!r} in a stack: there are {', '.join(LOGGERS)}")
    names = LOGGERS if member is None else (member,)
    return [path for name in names for path in sorted((settings.home / name).glob("*.log"))]


def _of_containers(settings: InfraSettings, member: str | None) -> list[LogLine]:
    """What containers wrote, where the stack has containers."""
    if read_state(settings.home).means != "compose":
        return []
    names = compose.SERVICES if member is None else (member,)
    return [
        LogLine(name, line)
        for name in names
        if name in compose.SERVICES
        for line in compose.log_lines(settings.home, name)
    ]
