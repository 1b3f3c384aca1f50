"""Runs a server below itself, so that nothing of it outlives whoever asked for it.

`python -m inference.serve_warden PARENT_PID GRACE_S ORPHAN_GRACE_S COMMAND...`. The command's pid
is the first line on stdout; what it prints goes to stderr.

- SIGTERM is passed on to the command, which has `GRACE_S` to end by itself. SIGQUIT kills at once.
- The parent is gone once stdin is at its end: then as SIGTERM, with `ORPHAN_GRACE_S`.
- Once the command has ended, whatever it left behind is ended too, also if it was killed: engines
  that vLLM starts do not notice that their API server is gone. On Linux they become children of
  the warden, in whatever group or session they are.
- If the warden itself is killed, the kernel kills the command (Linux); its supervisor the rest.

It imports the standard library and two files of `infra` that do no more, and starts in
milliseconds.
"""

import ctypes
import functools
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

from infra.guard import die_with_parent
from infra.process_tree import PROC, children_by_parent

POLL_S = 0.2
LEFT_BEHIND_S = 5.0
"""What those that a dead command leaves behind have to end by themselves: an engine writes its last
interval in that time."""
_PR_SET_CHILD_SUBREAPER = 36


class Warden:
    """One command, from its start to the end of the last process that it leaves behind."""

    def __init__(self, parent_pid: int, grace_s: float, orphan_grace_s: float) -> None:
        self._parent_pid = parent_pid
        self._grace_s = grace_s
        self._orphan_grace_s = orphan_grace_s
        self._asked = False
        self._hurried = False
        self._orphaned = False
        self._deadline_s: float | None = None

    def run(self, command: list[str]) -> int:
        """Exit status of the command; 128 and the signal's number if one ended it."""
        self._listen()
        _become_reaper()
        dies = functools.partial(die_with_parent, os.getpid()) if PROC.is_dir() else None
        child = subprocess.Popen(  # noqa: S603 - our parent's command, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            start_new_session=True,
            preexec_fn=dies,  # noqa: PLW1509 - one call into libc
        )
        os.write(sys.stdout.fileno(), f"{child.pid}\n".encode())
        while child.poll() is None:
            self._wait()
            self._act(child)
        end_what_is_left(child.pid, 0.0 if self._hurried else LEFT_BEHIND_S)
        return child.returncode if child.returncode >= 0 else 128 - child.returncode

    def _listen(self) -> None:
        def on_signal(number: int, _frame: FrameType | None) -> None:
            self._asked = self._asked or number == signal.SIGTERM
            self._hurried = self._hurried or number == signal.SIGQUIT

        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, on_signal)

    def _wait(self) -> None:
        """Until there may be something to do; also notices that the parent is gone."""
        if self._orphaned:
            time.sleep(POLL_S)
            return
        readable, _, _ = select.select([sys.stdin.fileno()], [], [], POLL_S)
        ended = bool(readable) and not os.read(sys.stdin.fileno(), 4_096)
        # A process that the parent forked may hold the pipe open for longer than the parent lives.
        self._orphaned = ended or os.getppid() != self._parent_pid

    def _act(self, child: "subprocess.Popen[bytes]") -> None:
        now_s = time.monotonic()
        if (self._asked or self._orphaned) and self._deadline_s is None:
            self._deadline_s = now_s + self._grace_s
            child.terminate()
        if self._orphaned and self._deadline_s is not None:
            self._deadline_s = min(self._deadline_s, now_s + self._orphan_grace_s)
            self._orphan_grace_s = float("inf")
        if self._hurried or (self._deadline_s is not None and now_s >= self._deadline_s):
            self._hurried = True
            child.kill()


def end_what_is_left(group: int, grace_s: float) -> None:
    """End the children that this process has by now, and everything in the dead command's group.

    Args:
        group: Process group of the command, whose leader has ended.
        grace_s: After it they are killed; their own children come to us and are killed too.
    """
    deadline_s = time.monotonic() + grace_s
    asked: set[int] = set()
    while _reap():
        killing = time.monotonic() >= deadline_s
        for pid in children_by_parent().get(os.getpid(), ()):
            if killing or pid not in asked:
                asked.add(pid)
                _signal(pid, signal.SIGKILL if killing else signal.SIGTERM)
        if killing and not PROC.is_dir():
            break
        time.sleep(POLL_S / 10)
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _reap() -> bool:
    """Take in the children that have ended; whether any others are left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _become_reaper() -> None:
    """On Linux, orphans below this process become its children, not those of process 1."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main() -> int:
    """Read the command line and watch over the command."""
    parent_pid, grace_s, orphan_grace_s = sys.argv[1:4]
    return Warden(int(parent_pid), float(grace_s), float(orphan_grace_s)).run(sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main())
