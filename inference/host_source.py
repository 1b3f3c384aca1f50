"""The source that a host speaks as: one incarnation of its outbox, with its key, on disk.

`<host folder>/outboxes/<source>/` holds `source.json` (mode 0600: it is the signing key) and the
outbox. A sidecar that is restarted goes on with the source that is not closed; there is one at
most, because a sidecar holds the host's lock for as long as it lives.
"""

import fcntl
import json
import os
import secrets
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from inference.outbox import Outbox, SourceIdentity
from inference.outbox_file import OUTBOX_FILE
from inference.settings import InferenceSettings
from infra.signing import SourceKey
from schemas.clock import Clock
from schemas.errors import SpoolError
from schemas.ids import derived_uuid
from schemas.units import NS_PER_MS

OUTBOXES_FOLDER = "outboxes"
_LOCK_FILE = "sidecar.lock"
_IDENTITY_FILE = "source.json"


def lock_host(folder: Path) -> int:
    """Become the one sidecar of a host; the descriptor holds the lock until it is closed.

    Raises:
        SpoolError: If another sidecar lives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SpoolError(f"{folder} has a living sidecar already") from error
    return descriptor


def open_source(settings: InferenceSettings, clock: Clock) -> tuple[Outbox, SourceIdentity, Path]:
    """The outbox to write to, who it speaks as, and its folder.

    Raises:
        SpoolError: If the disk fails.
    """
    root = settings.host_folder / OUTBOXES_FOLDER
    root.mkdir(parents=True, exist_ok=True)
    now_ms = clock.now_ns() // NS_PER_MS
    for path in sorted(root.glob(f"*/{_IDENTITY_FILE}")):
        identity = _read_identity(path)
        outbox = Outbox(path.parent, identity, settings, opened_ms=now_ms)
        if not outbox.closed:
            return outbox, identity, path.parent
        outbox.close()
    identity, folder = _new_identity(root)
    return Outbox(folder, identity, settings, opened_ms=now_ms), identity, folder


def outboxes_of(settings: InferenceSettings) -> list[Path]:
    """Folders of all outboxes of a host, closed ones too."""
    root = settings.host_folder / OUTBOXES_FOLDER
    return sorted(path.parent for path in root.glob(f"*/{OUTBOX_FILE}"))


def _new_identity(root: Path) -> tuple[SourceIdentity, Path]:
    seed = secrets.token_bytes(32)
    key = SourceKey(seed)
    source = derived_uuid("source", key.public_key_hex())
    folder = root / source
    folder.mkdir()
    path = folder / _IDENTITY_FILE
    content = {"source": source, "host": socket.gethostname(), "key_seed": seed.hex()}
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    # Under another name first: half an identity must not be taken for one after a power cut.
    partial = path.with_suffix(".partial")
    with os.fdopen(os.open(partial, flags, 0o600), "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    return _identity(content), folder


def _read_identity(path: Path) -> SourceIdentity:
    try:
        return _identity(json.loads(path.read_text()))
    except (ValueError, KeyError) as error:
        raise SpoolError(f"{path} is not the identity of a source: {error!r}") from error


def _identity(content: dict[str, str]) -> SourceIdentity:
    try:
        software = f"rentroll {version('rentroll')}"
    except PackageNotFoundError:
        software = "rentroll"
    return SourceIdentity(
        source=content["source"],
        host=content["host"],
        software=software,
        key=SourceKey(bytes.fromhex(content["key_seed"])),
    )
