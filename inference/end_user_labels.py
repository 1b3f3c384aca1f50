"""End users' labels on their way from a door to the billing store, where a tenant wants them kept.

Events never hold a label. Where `door_keep_labels` is on, a door appends each label once to a file
that only its user may read; whoever brings the doors their keys takes the file away.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from infra.store.end_users import LABEL_LENGTH_MAX, EndUser
from schemas.units import NS_PER_MS

FOLDER = "end-user-labels"
_FILE_MODE = 0o600
_KNOWN_MAX = 100_000
"""Labels that a door remembers having told; told again, one is known already."""


class SeenLabel(msgspec.Struct, frozen=True):
    """One line of a file."""

    tenant: str
    pseudonym: str
    label: str
    at_ms: int


class LabelNotes:
    """Appends what it has not told yet; used by one process.

    Attributes:
        failed: Labels that could not be written; a request never waits or fails for one.
    """

    def __init__(self, host_folder: Path) -> None:
        self._folder = host_folder / FOLDER
        self._told: set[str] = set()
        self.failed = 0

    def note(self, tenant: str, pseudonym: str, label: str, now_ns: int) -> None:
        """Append the label, if this process has not done so yet."""
        if pseudonym in self._told or len(label) > LABEL_LENGTH_MAX:
            return
        if len(self._told) >= _KNOWN_MAX:
            self._told.clear()
        line = msgspec.json.encode(SeenLabel(tenant, pseudonym, label, now_ns // NS_PER_MS))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{os.getpid()}.jsonl"
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            descriptor = os.open(path, flags, _FILE_MODE)
            try:
                os.write(descriptor, line + b"\n")
            finally:
                os.close(descriptor)
        except OSError:
            self.failed += 1
            return
        self._told.add(pseudonym)


def take_labels(host_folder: Path) -> Iterator[tuple[Path, list[EndUser]]]:
    """Every file of labels under a name that no door appends to; delete it once it is in the store.

    A line that was cut by a crash is passed over.
    """
    folder = host_folder / FOLDER
    for path in sorted(folder.glob("*.jsonl")):
        path.rename(path.with_suffix(f".{os.urandom(8).hex()}.taken"))
    for taken in sorted(folder.glob("*.taken")):
        yield taken, list(_read(taken))


def _read(path: Path) -> Iterator[EndUser]:
    for line in path.read_bytes().splitlines():
        try:
            seen = msgspec.json.decode(line, type=SeenLabel)
        except msgspec.DecodeError:
            continue
        yield EndUser(seen.tenant, seen.pseudonym, seen.label, seen.at_ms)
