"""Runs `rentroll serve-model` in a folder of its own, and knows every process of it by pid."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from inference.serve_child import Run, read_run
from inference.serve_supervisor import SERVE_FOLDER
from inference.settings import InferenceSettings
from inference.sidecar_status import SidecarStatus, read_status
from infra.process_mark import ProcessMark


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    """Wait until a condition holds, or fail with what was waited for."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


def _hear_signals() -> None:
    """As from a terminal, also where the tests run in the background and ignore these."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@dataclass
class ServeRun:
    """One run; `environment` is added to the command's own."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.printed = self.folder / "printed"

    @property
    def host(self) -> Path:
        return self.folder / "host"

    @property
    def settings(self) -> InferenceSettings:
        return InferenceSettings(host_folder=self.host)

    def start(self, *words: str) -> None:
        """Start the command as a terminal does: it leads a process group."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("RENTROLL_")}
        told = {
            "RENTROLL_HOME": str(self.folder / "home"),
            "RENTROLL_INFERENCE_HOST_FOLDER": str(self.host),
            "RENTROLL_INFERENCE_DOOR_KEYS_FILE": str(self.folder / "keys.json"),
            "RENTROLL_INFERENCE_DOOR_KEYS_REFRESH_S": "1",
            "RENTROLL_INFERENCE_DRAIN_S": "60",
            "RENTROLL_INFERENCE_MARK_MS": "200",
            "COLUMNS": "300",
        }
        if self.process is not None:
            self.process.wait(60)
        with self.printed.open("wb") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rentroll", "serve-model", *words],
                cwd=self.folder,
                env={**own, **told, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
                preexec_fn=_hear_signals,  # noqa: PLW1509 - two calls into the kernel
            )

    def wait_ready(self, timeout_s: float = 60) -> None:
        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.text()
            return "ready: " in self.text()

        wait_for(ready, "the readiness line", timeout_s)

    def text(self) -> str:
        """All that the command printed."""
        return self.printed.read_text() if self.printed.exists() else ""

    def run(self) -> Run:
        return read_run(self.host / SERVE_FOLDER)

    def status(self) -> SidecarStatus | None:
        return read_status(self.host)

    def marks(self) -> list[ProcessMark]:
        """Every process that the run file names."""
        return [one for marks in self.run().processes.values() for one in marks]

    def of(self, name: str) -> list[ProcessMark]:
        """The warden and the processes below it."""
        return list(self.run().processes[name])

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, timeout_s: float = 180) -> int:
        """Exit status of the command."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def clean_up(self) -> None:
        """Nothing of a failed test stays."""
        marks = self.marks()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for left in marks:
            left.kill()
