"""Starts, uses and stops the stack of a folder, from the outside of its keeper."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra import local_server
from infra.endpoints import STACK_FILE, Endpoints, resolve
from infra.local_server import last_lines
from infra.process_mark import ProcessMark
from infra.settings import InfraSettings
from infra.stack import compose
from infra.stack.keeper import ALREADY_RUNS, clear_last_run
from infra.stack.state import KeeperLock, Phase, StackState, read_state
from schemas.errors import ServerError, ServerStartError

POLL_S = 0.1
STOP_TIMEOUT_S = 60
KILL_TIMEOUT_S = 10

Progress = Callable[[StackState], None]


def no_progress(_state: StackState) -> None:
    """For callers that do not show any."""


def running_keeper(settings: InfraSettings) -> ProcessMark | None:
    """The keeper of the stack that runs in this folder, else None."""
    return KeeperLock(settings.home).holder()


@dataclass(frozen=True, slots=True)
class StartedStack:
    """A stack that this process started; its keeper stops with this process unless detached."""

    settings: InfraSettings
    keeper: subprocess.Popen[bytes]

    def wait_until_ended(self) -> int:
        """Exit status of the keeper, once it ends."""
        return self.keeper.wait()

    def stop(self) -> None:
        """Stop the members and the keeper, cleanly; kill what does not stop.

        Raises:
            ServerError: If something still runs.
        """
        # Not by the lock file: a keeper that has just been started may not have written it yet.
        local_server.stop(self.keeper, STOP_TIMEOUT_S)
        self.let_go()
        down(self.settings)

    def let_go(self) -> None:
        """Close the pipe to the keeper: one that lives stops, unless it is detached."""
        if self.keeper.stdin is not None:
            self.keeper.stdin.close()


def start(
    settings: InfraSettings, *, detach: bool, on_progress: Progress = no_progress
) -> StartedStack | None:
    """Start the stack and wait until it is ready.

    Args:
        settings: Which servers are given, and the folder.
        detach: Leave the keeper behind when this process ends; else it stops with it.
        on_progress: Called with each state that differs from the one before.

    Returns:
        The started stack, or None where another keeper runs in the folder: nothing was done.

    Raises:
        ServerStartError: If a member does not start; whatever had started was stopped again.
    """
    home = settings.home.resolve()
    if running_keeper(settings) is not None:
        return None
    stack = StartedStack(settings, _launch_keeper(settings, home, detach=detach))
    try:
        _wait(stack, home, on_progress)
    except BaseException:
        # Ctrl-C while it starts must not leave a detached keeper either.
        if stack.keeper.poll() is None:
            stack.stop()
        stack.let_go()
        raise
    if stack.keeper.poll() == ALREADY_RUNS:
        stack.let_go()
        return None
    return stack


@contextmanager
def running_stack(
    settings: InfraSettings, on_progress: Progress = no_progress
) -> Iterator[Endpoints]:
    """Addresses of a stack that is ready: the one that runs in the folder, else one of its own.

    A stack that was started here is stopped at the end; one that ran before is left running.

    Raises:
        ServerStartError: If a member does not start.
    """
    started = start(settings, detach=False, on_progress=on_progress)
    try:
        if started is None:
            _wait_for_the_other(settings, on_progress)
        yield resolve(settings)
    finally:
        if started is not None:
            started.stop()


def down(settings: InfraSettings) -> bool:
    """Stop the stack of the folder and clear what a killed keeper left; data stays.

    Returns:
        Whether there was anything to stop.

    Raises:
        ServerError: If the keeper or a container does not stop.
    """
    home = settings.home.resolve()
    keeper = running_keeper(settings)
    if keeper is not None:
        _stop_keeper(keeper)
    lock = KeeperLock(home)
    if not home.is_dir() or not lock.take():
        # There never was a stack, or another command has just started a new one.
        return keeper is not None
    try:
        return _clear(home, was_kept=keeper is not None)
    finally:
        lock.release()


def _clear(home: Path, *, was_kept: bool) -> bool:
    """Forget the last run, under the lock; whether anything of it was still up."""
    try:
        state = read_state(home)
    except ServerError:
        # What is damaged names no process that can be trusted; only its ports are lost.
        (home / STACK_FILE).unlink()
        return True
    was_up = was_kept or state.phase in {Phase.READY, Phase.STARTING}
    if was_up and not was_kept and state.means == "compose":
        compose.take_down(home)
    if was_up:
        clear_last_run(home)
    return was_up


def _stop_keeper(keeper: ProcessMark) -> None:
    """SIGTERM, then SIGKILL: its members go with it."""
    for number, timeout_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, KILL_TIMEOUT_S)):
        keeper.kill(number)
        began = time.monotonic()
        while time.monotonic() - began < timeout_s:
            if not keeper.is_alive():
                return
            time.sleep(POLL_S / 2)
    raise ServerError(f"the keeper, process {keeper.pid}, does not stop, not even by SIGKILL")


def _launch_keeper(
    settings: InfraSettings, home: Path, *, detach: bool
) -> "subprocess.Popen[bytes]":
    """The keeper process, in a session of its own: Ctrl-C reaches this process only."""
    folder = home / "keeper"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "infra.stack.keeper"]
    with _keeper_log(home).open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own command
            command if detach else [*command, "--until-stdin-closes"],
            env=settings.model_copy(update={"home": home}).as_environment(),
            stdin=subprocess.DEVNULL if detach else subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _keeper_log(home: Path) -> Path:
    return home / "keeper" / "printed.log"


def _wait(stack: StartedStack, home: Path, on_progress: Progress) -> None:
    """Follow stack.json until it says ready, or the keeper ends."""
    shown = StackState()
    while True:
        ended = stack.keeper.poll()
        if ended == ALREADY_RUNS:
            return
        state = _written_by(home, stack.keeper.pid)
        if state != shown:
            on_progress(state)
            shown = state
        if ended is not None:
            lines = "\n".join(last_lines(_keeper_log(home)))
            raise ServerStartError(state.failure or f"the stack's keeper ended:\n{lines}")
        if state.phase is Phase.READY:
            return
        time.sleep(POLL_S)


def _written_by(home: Path, keeper_pid: int) -> StackState:
    """What this keeper last wrote; an empty state as long as it has written nothing."""
    state = read_state(home)
    return state if state.keeper is not None and state.keeper.pid == keeper_pid else StackState()


def _wait_for_the_other(settings: InfraSettings, on_progress: Progress) -> None:
    """Wait until a stack that somebody else starts is ready.

    Raises:
        ServerStartError: If it ends, or is not ready in time.
    """
    home = settings.home.resolve()
    began = time.monotonic()
    while True:
        keeper = running_keeper(settings)
        if keeper is None:
            failure = read_state(home).failure
            raise ServerStartError(f"the stack in {home} ended while it started: {failure}")
        state = _written_by(home, keeper.pid)
        on_progress(state)
        if state.phase is Phase.READY:
            return
        if time.monotonic() - began > settings.start_timeout_s:
            raise ServerStartError(
                f"the stack in {home}, started by another command, is not ready after"
                f" {settings.start_timeout_s} s"
            )
        time.sleep(POLL_S)
