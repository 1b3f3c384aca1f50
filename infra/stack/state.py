"""What a stack remembers in `.rentroll/stack.json`: addresses, ports, members, and its keeper."""

import fcntl
import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.endpoints import STACK_FILE
from infra.process_mark import ProcessMark, mark
from schemas.errors import ServerError

LOCK_FILE = "keeper.lock"

MemberName = Literal["kafka", "clickhouse", "store", "stripe"]
Provided = Literal["url", "compose", "process", "file"]
Means = Literal["compose", "process"]


class Phase(StrEnum):
    """Where a stack, or one of its members, is in its life."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


class MemberState(BaseModel):
    """One server of the stack, as the keeper last saw it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: MemberName
    provided: Provided
    address: str
    phase: Phase
    process: ProcessMark | None = None
    restarts: int = 0
    failure: str = ""


class StackState(BaseModel):
    """The whole file. `endpoints` holds what clients need, and only while the stack is ready.

    `keeper` wrote it: what another one than the living keeper wrote is of an earlier run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keeper: ProcessMark | None = None
    endpoints: dict[str, str] = Field(default_factory=dict)
    phase: Phase = Phase.STOPPED
    failure: str = ""
    members: tuple[MemberState, ...] = ()
    ports: dict[str, int] = Field(default_factory=dict)
    means: Means | None = None


def read_state(home: Path) -> StackState:
    """What the stack in `home` last wrote; an empty state where none ever ran.

    Raises:
        ServerError: If the file is not what a stack writes.
    """
    path = home / STACK_FILE
    try:
        return StackState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return StackState()
    except ValidationError as error:
        first = error.errors()[0]
        raise ServerError(
            f"{path} is damaged ({'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']});"
            " `rentroll down` clears it"
        ) from error


def write_state(home: Path, state: StackState) -> None:
    """Replace the file as a whole: a reader sees the old state or the new one, never half."""
    path = home / STACK_FILE
    fresh = path.with_suffix(".json.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(state.model_dump_json(indent=2) + "\n")
    fresh.replace(path)


class KeeperLock:
    """Held by the one keeper of a folder for as long as it lives; the kernel frees it for sure."""

    def __init__(self, home: Path) -> None:
        self._path = home / LOCK_FILE
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Take the lock; False where another process holds it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        os.truncate(descriptor, 0)
        return True

    def sign(self) -> None:
        """Write that this process, which has the lock, is the keeper."""
        keeper = mark(os.getpid())
        if self._descriptor is not None and keeper is not None:
            os.write(self._descriptor, keeper.model_dump_json().encode())

    def release(self) -> None:
        """Give the lock back, unsigned."""
        if self._descriptor is not None:
            os.truncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> ProcessMark | None:
        """The keeper that lives now, else None."""
        try:
            written = json.loads(self._path.read_text())
            keeper = ProcessMark.model_validate(written)
        except (FileNotFoundError, ValueError):
            return None
        return keeper if keeper.is_alive() else None
