"""One process that a supervisor watches over: started below a warden, asked to end, or killed.

What such a process was lies in the run file, so that the next start ends whatever a killed
supervisor and a killed warden left.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.local_server import last_lines
from infra.process_mark import ProcessMark, mark
from infra.process_tree import children_by_parent
from schemas.errors import ServerError

RUN_FILE = "serve.json"
LOCK_FILE = "serve.lock"
_KILL_S = 10.0
_POLL_S = 0.02


class Run(BaseModel):
    """The run file: who serves, where, and every process below its wardens that was seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    supervisor: ProcessMark | None = None
    base_url: str = ""
    processes: dict[str, tuple[ProcessMark, ...]] = {}


class Child:
    """A command below its warden; it and all that it starts end with the warden's parent."""

    def __init__(self, name: str, log: Path, *, grace_s: float, orphan_grace_s: float) -> None:
        self.name = name
        self.log = log
        self._grace_s = grace_s
        self._orphan_grace_s = orphan_grace_s
        self._warden: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def start(self, command: Sequence[str], environment: Mapping[str, str], *, anew: bool) -> None:
        """Start it; a log of the run before moves aside if this begins a run `anew`.

        Raises:
            ServerError: If the program cannot be started.
        """
        if anew and self.log.exists():
            self.log.replace(self.log.with_name(f"{self.log.name}.previous"))
        warden = [sys.executable, "-P", "-m", "inference.serve_warden", str(os.getpid())]
        self.close()
        self.pid = 0
        try:
            with self.log.open("ab") as log:
                self._warden = subprocess.Popen(  # noqa: S603 - our own command, no shell
                    [*warden, str(self._grace_s), str(self._orphan_grace_s), *command],
                    env=dict(environment),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    # Ctrl-C in a terminal goes to the whole group; only the supervisor acts on it.
                    start_new_session=True,
                )
        except OSError as error:
            raise ServerError(f"{self.name} does not start: {error}") from error
        told = self._warden.stdout
        line = told.readline() if told is not None else b""
        if not line.strip().isdigit():
            self._warden.wait()
            raise ServerError(self.why("does not start"))
        self.pid = int(line)

    def ended(self) -> int | None:
        """Exit status, once it and everything that it started have ended; 137 if killed."""
        if self._warden is None:
            return 0
        status = self._warden.poll()
        if status is None:
            return None
        if status < 0:
            # The warden was killed: the kernel took the command with it, and this the rest. Once:
            # later the number may be somebody else's.
            _kill_group(self.pid)
            self.pid = 0
        return status if status >= 0 else 128 - status

    def ask(self) -> None:
        """Ask it to end in order."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything that it started, now."""
        self._send(signal.SIGQUIT)
        deadline_s = time.monotonic() + _KILL_S
        while self.ended() is None:
            if time.monotonic() > deadline_s and self._warden is not None:
                self._warden.kill()
                self._warden.wait()
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Let go of the pipes of one that has ended."""
        if self._warden is not None:
            for pipe in (self._warden.stdin, self._warden.stdout):
                if pipe is not None:
                    pipe.close()

    def processes(self) -> tuple[ProcessMark, ...]:
        """The warden and everything below it now, in whatever group; the command is the second."""
        if self._warden is None:
            return ()
        pids = _tree_of(self._warden.pid, self.pid)
        return tuple(one for one in map(mark, pids) if one is not None)

    def why(self, what: str) -> str:
        """A message: what happened, and the last lines of the log."""
        lines = "".join(f"\n  {line}" for line in last_lines(self.log))
        told = f"{self.log} ends with:{lines}" if lines else f"it wrote nothing into {self.log}"
        return f"{self.name} {what}; {told}"

    def _send(self, number: signal.Signals) -> None:
        if self._warden is not None and self._warden.poll() is None:
            self._warden.send_signal(number)


class RunFile:
    """The run file of a host, under a lock that its one supervisor holds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / RUN_FILE
        self._lock: int | None = None
        self._written: Run | None = None

    def take(self) -> None:
        """Become the one supervisor, and end what a killed one left.

        Raises:
            ServerError: If another one lives.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock = os.open(self._folder / LOCK_FILE, flags, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            self._lock = None
            run = read_run(self._folder)
            where = f" at {run.base_url}" if run.base_url else ""
            raise ServerError(
                f"a model is served from {self._folder.parent} already{where}: stop that one, or"
                " set RENTROLL_INFERENCE_HOST_FOLDER to another folder"
            ) from error
        left = [one for marks in read_run(self._folder).processes.values() for one in marks]
        for one in left:
            one.kill()
        deadline_s = time.monotonic() + _KILL_S
        while any(one.is_alive() for one in left):
            if time.monotonic() > deadline_s:
                raise ServerError(f"processes of an earlier run do not end: {left}")
            time.sleep(_POLL_S)

    @property
    def held(self) -> bool:
        """Whether this is the one supervisor."""
        return self._lock is not None

    def write(self, run: Run) -> None:
        """Replace the file where something has changed."""
        if run == self._written:
            return
        fresh = self._path.with_suffix(".json.new")
        fresh.write_text(run.model_dump_json(indent=2) + "\n")
        fresh.replace(self._path)
        self._written = run

    def release(self) -> None:
        """Nothing of the run is left: forget it."""
        if self._lock is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def read_run(folder: Path) -> Run:
    """What the last supervisor wrote; empty where there is none, or it ended in order."""
    try:
        return Run.model_validate(json.loads((folder / RUN_FILE).read_text()))
    except (OSError, ValueError, ValidationError):
        return Run()


def _tree_of(warden: int, command: int) -> list[int]:
    """Pids from the warden down, each before its children; these two where there is no /proc."""
    children = children_by_parent()
    found = [warden, command]
    for pid in found:
        found += [child for child in sorted(children.get(pid, [])) if child not in found]
    return found


def _kill_group(group: int) -> None:
    if not group:
        return
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
