"""What a sidecar says about itself, in one small file that is replaced whole.

`<host folder>/sidecar.json` is how a supervisor learns that the source is registered and later
closed, and how a person or a monitor sees that merging and publishing go on.
"""

from pathlib import Path
from typing import Literal

import msgspec

from schemas.errors import SpoolError

STATUS_FILE = "sidecar.json"
State = Literal["open", "draining", "closed", "left open"]
"""`closed`: nothing follows. `left open`: it ended, the next sidecar goes on with the source."""


class SidecarStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a sidecar; counts are of its source since it was opened."""

    pid: int
    source: str
    state: State
    events: int
    unpublished_events: int
    outbox_bytes: int
    open_requests: int
    living_writers: int
    merged_unix_ms: int
    written_unix_ms: int


def write_status(host_folder: Path, status: SidecarStatus) -> None:
    """Replace the file.

    Raises:
        SpoolError: If the disk refuses.
    """
    path = host_folder / STATUS_FILE
    fresh = path.with_suffix(".json.new")
    try:
        fresh.write_bytes(msgspec.json.encode(status))
        fresh.replace(path)
    except OSError as error:
        raise SpoolError(f"{path}: {error}") from error


def read_status(host_folder: Path) -> SidecarStatus | None:
    """The last look; None where no sidecar ever ran, or what is there is not one."""
    try:
        return msgspec.json.decode((host_folder / STATUS_FILE).read_bytes(), type=SidecarStatus)
    except (OSError, msgspec.DecodeError):
        return None
