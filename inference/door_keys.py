"""What a door knows about keys: a snapshot file, read again when it changes, denied when stale.

A request must not wait for a database, and a door must not go on admitting for ever on what it
once knew. So keys lie in one file, replaced whole; no file, an unreadable first one, or one older
than the bound means that nobody is admitted.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Literal

import msgspec

from inference.settings import InferenceSettings
from infra.pseudonyms import pseudonym
from schemas.units import MS_PER_S, NS_PER_MS

CLOCK_SKEW_MS = 300_000
"""A snapshot from further in the future than this would stay fresh too long."""
FILE_MODE = 0o600
_CONTENT = b',"keys":'
"""In a snapshot, what stands before it says when it was written."""


class DoorKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key as a door needs it."""

    key_id: str
    secret_hash: str
    tenant: str
    project: str
    scopes: tuple[str, ...]
    service_tiers: tuple[str, ...]
    requests_per_minute: int | None = None
    expires_at_ms: int | None = None
    revoked: bool = False


class DoorTenant(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant as a door needs it; `tenant_key` are 32 secret bytes as hex.

    `budget` says whether admission is asked; `prepaid` if a credit is one of several budgets.
    """

    tenant: str
    tenant_key: str
    suspended: bool = False
    suspend_reason: str = ""
    budget: Literal["", "monthly", "prepaid"] = ""

    def pseudonym(self, purpose: str, text: str) -> str:
        """An HMAC of `text` that only this tenant has, as 32 hex digits."""
        return pseudonym(self.tenant_key, purpose, text)


class KeySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    version: Literal[1] = 1
    written_at_ms: int
    keys: tuple[DoorKey, ...]
    tenants: tuple[DoorTenant, ...]


class KeyIndex:
    """A snapshot that can be asked."""

    def __init__(self, snapshot: KeySnapshot) -> None:
        self.written_at_ms = snapshot.written_at_ms
        self.keys = {key.key_id: key for key in snapshot.keys}
        self.tenants = {tenant.tenant: tenant for tenant in snapshot.tenants}


def write_snapshot(path: Path, snapshot: KeySnapshot) -> None:
    """Replace the file whole: a reader sees the old one or the new one, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), FILE_MODE)
            file.write(msgspec.json.encode(snapshot))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class KeyRing:
    """The snapshot in force; looks at the file at most every `door_keys_check_ms`."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._path = settings.door_keys_file
        self._max_age_ms = settings.door_keys_max_age_s * MS_PER_S
        self._check_ns = settings.door_keys_check_ms * NS_PER_MS
        self._checked_mono_ns = -self._check_ns
        self._seen: tuple[int, int, int] | None = None
        self._index: KeyIndex | None = None
        self._content = b""
        self.failures = 0

    def current(self, now_ms: int) -> KeyIndex | None:
        """The keys in force, or None: nobody may be admitted."""
        mono_ns = time.monotonic_ns()
        if mono_ns - self._checked_mono_ns >= self._check_ns:
            self._checked_mono_ns = mono_ns
            self._look()
        index = self._index
        if index is None:
            return None
        age_ms = now_ms - index.written_at_ms
        return index if -CLOCK_SKEW_MS <= age_ms <= self._max_age_ms else None

    def _look(self) -> None:
        try:
            found = self._path.stat()
        except OSError:
            # Whoever takes the file away closes the door, at once.
            self._index = self._seen = None
            self._content = b""
            return
        seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._read(self._path.read_bytes())
        except (OSError, ValueError):
            # What was known before stays in force, until it is too old.
            self.failures += 1

    def _read(self, raw: bytes) -> None:
        """Take over a snapshot; one that only says the same again costs no more than its time.

        Doors are told every few seconds, and 100,000 keys take a few hundred ms to decode: so long
        no stream of this process would move.
        """
        head, _, content = raw.partition(_CONTENT)
        if self._index is not None and content == self._content:
            stamp = msgspec.json.decode(head + _CONTENT + b'[],"tenants":[]}', type=KeySnapshot)
            self._index.written_at_ms = stamp.written_at_ms
            return
        snapshot = msgspec.json.decode(raw, type=KeySnapshot)
        for tenant in snapshot.tenants:
            bytes.fromhex(tenant.tenant_key)
        self._index, self._content = KeyIndex(snapshot), content
