"""Runs `rentroll` in a folder of its own, and finds every process that belongs to the folder."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from infra.stack.state import MemberState, StackState, read_state

COMMAND_TIMEOUT_S = 110


@dataclass(frozen=True)
class StackFolder:
    """One folder with a stack; `environment` is added to the command's own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / ".rentroll"

    def rentroll(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.whole_environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )

    def rentroll_in_the_foreground(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.whole_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "rentroll", *arguments]

    def whole_environment(self) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith("RENTROLL_")}
        return {**own, "RENTROLL_COMPOSE": "false", "COLUMNS": "200", **self.environment}

    def state(self) -> StackState:
        return read_state(self.home)

    def member(self, name: str) -> MemberState:
        (found,) = [member for member in self.state().members if member.name == name]
        return found

    def processes(self) -> list[int]:
        """Every process that works in this folder, names it, or has it in its environment."""
        mine = str(self.folder).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                    if mine in told or (entry / "cwd").readlink().is_relative_to(self.folder):
                        found.append(int(entry.name))
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue
        return found


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Wait until a condition holds, or fail with what was waited for."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.1)
