"""Tells one process from a later one with the same pid: by pid and start time."""

import os
import signal
import subprocess

from pydantic import BaseModel, ConfigDict

from infra.process_tree import PROC

START_TIME_FIELD = 19
"""Of /proc/PID/stat, counted behind the `)` that ends the command name (field 22 of all)."""


class ProcessMark(BaseModel):
    """One process, for ever: another one with this pid started at another time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    started: str

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return started_at(self.pid) == self.started

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to this process if it still runs, never to another one."""
        if self.is_alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def age_s(self) -> int | None:
        """Seconds since it started; None where the system does not say."""
        if not self.is_alive():
            return None
        if not (PROC / "uptime").exists():
            return _age_by_ps(self.pid)
        up_s = float((PROC / "uptime").read_text().split()[0])
        started_ticks = int(self.started.rpartition("/")[2])
        return max(0, int(up_s - started_ticks / os.sysconf("SC_CLK_TCK")))


def mark(pid: int) -> ProcessMark | None:
    """The mark of a process that runs now, else None."""
    started = started_at(pid)
    return None if started is None else ProcessMark(pid=pid, started=started)


def started_at(pid: int) -> str | None:
    """When a process started, in whatever words the system has; None for a dead or zombie one."""
    if not (PROC / "self").exists():
        return _ps(pid, "lstart")
    try:
        behind_name = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if behind_name[0] in "ZX":
        return None
    # Ticks count from the boot: after another boot the same count is another time.
    boot = (PROC / "sys/kernel/random/boot_id").read_text()[:8]
    return f"{boot}/{behind_name[START_TIME_FIELD]}"


def _ps(pid: int, column: str) -> str | None:
    """One column of `ps` where there is no /proc."""
    said = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", f"{column}=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or None


def _age_by_ps(pid: int) -> int | None:
    """Seconds out of `[[days-]hours:]minutes:seconds`."""
    elapsed = _ps(pid, "etime")
    if elapsed is None:
        return None
    days, _, clock = elapsed.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return total + int(days or 0) * 86_400
