"""Runs a command that must not outlive its parent: `python guard.py PARENT_PID COMMAND...`.

On Linux the kernel kills the process when its parent dies, and the command takes this process's
place (same pid). Elsewhere this process stays in between: it watches for the parent to go, then
kills the command. The file imports nothing of ours so that it starts in milliseconds.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
PARENT_CHECK_S = 0.5


def guarded(command: Sequence[str]) -> list[str]:
    """The command so that it dies with this process, or on Linux with the thread that starts it."""
    return [sys.executable, "-E", "-S", "-P", __file__, str(os.getpid()), *command]


def die_with_parent(parent_pid: int) -> None:
    """Linux only: SIGKILL to this process when its parent goes, also across `exec`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        # The parent went before the line above: the kernel will not tell any more.
        sys.exit(1)


def stay_between(parent_pid: int, command: list[str]) -> int:
    """Run the command below this process and kill it when the parent is gone."""
    child = subprocess.Popen(command)  # noqa: S603 - the command is our own
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while child.poll() is None:
        if os.getppid() != parent_pid:
            child.kill()
        time.sleep(PARENT_CHECK_S)
    return child.returncode


def main() -> None:
    """Read the command line and become, or guard, the command."""
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        die_with_parent(parent_pid)
        os.execvp(command[0], command)  # noqa: S606 - no shell on purpose
    sys.exit(stay_between(parent_pid, command))


if __name__ == "__main__":
    main()
