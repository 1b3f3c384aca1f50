"""Owns the members of one stack: starts them, restarts what dies, stops them all.

`python -m infra.stack.keeper` is started by `infra.stack.control`; settings come from the
environment. It writes what it sees to `stack.json` and stops on SIGTERM, SIGINT or, where asked,
the end of its standard input.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from infra import container_engine
from infra.local_server import LocalServer, launch, stop, why_not_started
from infra.ports import is_free
from infra.process_mark import ProcessMark, mark
from infra.settings import InfraSettings
from infra.stack import compose
from infra.stack.members import Member, Plan, keep_or_choose, member, members, port_names
from infra.stack.state import (
    KeeperLock,
    MemberName,
    MemberState,
    Phase,
    StackState,
    read_state,
    write_state,
)
from infra.stop_request import StopRequest
from schemas.errors import RentrollError, ServerError, ServerStartError

ALREADY_RUNS = 3
"""Exit status where another keeper lives in this folder."""
CHECK_S = 0.1
RESTARTS_WINDOW_S = 600


@dataclass(slots=True)
class Kept:
    """One member while the keeper lives."""

    member: Member
    began: float
    phase: Phase = Phase.STARTING
    process: subprocess.Popen[bytes] | None = None
    marked: ProcessMark | None = None
    restarted_at: deque[float] = field(default_factory=deque)
    restarts: int = 0
    was_ready: bool = False
    failure: str = ""

    def state(self) -> MemberState:
        """As stack.json shows it."""
        return MemberState(
            name=self.member.name,
            provided=self.member.provided,
            address=self.member.address,
            phase=self.phase,
            # Not looked up anew: a process that died since the last look is still "ready" with it.
            process=self.marked,
            restarts=self.restarts,
            failure=self.failure,
        )

    def launch(self, server: LocalServer) -> None:
        """Start its process."""
        self.process = launch(server)
        self.marked = mark(self.process.pid)

    def give_up(self, failure: str) -> None:
        """Have no process any more, for good."""
        self.phase, self.failure = Phase.FAILED, failure
        self.process = self.marked = None

    def has_ended(self) -> bool:
        """Whether its process is gone."""
        return self.process is not None and self.process.poll() is not None


class Keeper:
    """The loop over all members. One thread: Linux ties a child's life to the thread it is from."""

    def __init__(self, settings: InfraSettings, stopping: StopRequest) -> None:
        self._settings = settings
        self._home = settings.home.resolve()
        self._stopping = stopping
        past = read_state(self._home)
        means = compose.choose_means(
            wanted=settings.compose,
            kept=past.means,
            engine_answers=container_engine.compose_answers,
        )
        self._needs = port_names(settings, means)
        names = tuple(name for own in self._needs.values() for name in own)
        self._plan = Plan(settings, means, keep_or_choose(self._home, past.ports, names))
        self._kept: dict[MemberName, Kept] = {}
        self._containers: subprocess.Popen[bytes] | None = None
        self._phase = Phase.STARTING
        self._written = StackState()

    def run(self) -> None:
        """Start everything, keep it up until asked to stop, stop everything.

        Raises:
            RentrollError: If a member does not start the first time; the others are stopped.
        """
        failure = ""
        try:
            self._start_all()
            while not self._stopping.wait(CHECK_S):
                self._look()
        except RentrollError as error:
            failure = str(error)
            raise
        finally:
            self._stop_all()
            self._write(Phase.FAILED if failure else Phase.STOPPED, failure)

    def _start_all(self) -> None:
        self._start_containers()
        for one in members(self._plan):
            self._kept[one.name] = Kept(one, time.monotonic())
            if one.server is not None:
                self._kept[one.name].launch(one.server)
        self._write(Phase.STARTING)

    def _start_containers(self) -> None:
        wanted = [one.name for one in members(self._plan) if one.provided == "compose"]
        if wanted:
            heap_mb = self._settings.kafka_heap_mb
            up = compose.bring_up(self._home, self._plan.ports, heap_mb, wanted)
            self._containers = launch(up)

    def _look(self) -> None:
        """One look at every member, and the steps that follow from it."""
        containers_come_up = self._containers is not None and self._containers.poll() is None
        if self._containers is not None and self._containers.returncode:
            up = compose.bring_up(self._home, self._plan.ports, 0, ())
            raise ServerStartError(why_not_started(up, f"ended with {self._containers.returncode}"))
        for kept in self._kept.values():
            if kept.phase is Phase.FAILED:
                continue
            if kept.has_ended():
                self._restart(kept)
            elif kept.phase is Phase.STARTING and not (
                containers_come_up and kept.member.provided == "compose"
            ):
                self._wait_for(kept)
        if all(kept.was_ready for kept in self._kept.values()):
            self._phase = Phase.READY
        self._write(self._phase)

    def _wait_for(self, kept: Kept) -> None:
        """Make a member ready once it serves; give it up after its time."""
        if kept.member.probe():
            if not kept.was_ready:
                kept.member.set_up()
            kept.phase, kept.was_ready = Phase.READY, True
        elif never := kept.member.why_never():
            raise ServerError(f"{kept.member.name} at {never}")
        elif time.monotonic() - kept.began > self._settings.start_timeout_s:
            what = f"did not serve in {self._settings.start_timeout_s} s"
            if kept.process is None:
                raise ServerError(f"{kept.member.name} at {kept.member.address} {what}")
            kept.process.kill()
            kept.process.wait()
            self._restart(kept, what)

    def _restart(self, kept: Kept, what: str = "") -> None:
        """Start a member again: within the bound, and at its first start only for a lost port."""
        name, server = kept.member.name, kept.member.server
        if server is None or kept.process is None:  # only processes of ours end
            return
        what = what or f"ended with {kept.process.returncode}"
        needed = self._needs[name]
        lost_a_port = not all(is_free(self._plan.ports[port]) for port in needed)
        now = time.monotonic()
        while kept.restarted_at and now - kept.restarted_at[0] > RESTARTS_WINDOW_S:
            kept.restarted_at.popleft()
        if not kept.was_ready and not lost_a_port:
            raise ServerStartError(why_not_started(server, what))
        if len(kept.restarted_at) >= self._settings.stack_restart_attempts:
            kept.give_up(why_not_started(server, f"{what}, {len(kept.restarted_at)} restarts"))
            return
        if lost_a_port:
            ports = keep_or_choose(self._home, self._plan.ports, needed)
            self._plan = replace(self._plan, ports=ports)
            kept.member = member(self._plan, name)
        kept.restarted_at.append(now)
        kept.restarts += 1
        kept.phase, kept.began = Phase.STARTING, now
        kept.launch(kept.member.server or server)

    def _stop_all(self) -> None:
        """Ask all at once, then wait for each."""
        processes = [kept.process for kept in self._kept.values() if kept.process is not None]
        if self._containers is not None:
            processes.append(self._containers)
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in processes:
            stop(process)
        for kept in self._kept.values():
            kept.process = kept.marked = None
            kept.phase = Phase.FAILED if kept.failure else Phase.STOPPED
        if self._containers is not None:
            compose.take_down(self._home)

    def _write(self, phase: Phase, failure: str = "") -> None:
        """Write stack.json where something changed."""
        endpoints = [kept.member.endpoint for kept in self._kept.values()]
        state = StackState(
            keeper=mark(os.getpid()),
            endpoints=dict(filter(None, endpoints)) if phase is Phase.READY else {},
            phase=phase,
            failure=failure,
            members=tuple(kept.state() for kept in self._kept.values()),
            ports=dict(self._plan.ports),
            means=self._plan.means,
        )
        if state != self._written:
            write_state(self._home, state)
            self._written = state


def keep(settings: InfraSettings, stopping: StopRequest) -> int:
    """Keep a stack in `settings.home` until `stopping` is set; exit status."""
    home = settings.home.resolve()
    lock = KeeperLock(home)
    if not lock.take():
        return ALREADY_RUNS
    lock.sign()
    try:
        clear_last_run(home)
        Keeper(settings, stopping).run()
    except RentrollError as error:
        sys.stderr.write(f"{error}\n")
        _write_failure(home, str(error))
        return 1
    finally:
        lock.release()
    return 0


def clear_last_run(home: Path) -> None:
    """Kill what a killed keeper left, and forget its run except for ports and means.

    Only whoever holds the lock may do so: without it these could be another keeper's members.
    """
    past = read_state(home)
    for left in past.members:
        if left.process is not None:
            left.process.kill()
    write_state(home, StackState(ports=past.ports, means=past.means))


def _write_failure(home: Path, failure: str) -> None:
    """Leave word for the command that waits, also where the keeper failed before its first step."""
    state = read_state(home)
    changes = {"keeper": mark(os.getpid()), "phase": Phase.FAILED, "failure": failure}
    write_state(home, state.model_copy(update=changes))


def _read_to_the_end(stopping: StopRequest) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stopping.set()


def main() -> None:
    """Run a keeper in the foreground."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--until-stdin-closes", action="store_true")
    given = parser.parse_args()
    stopping = StopRequest()
    stopping.on((signal.SIGTERM, signal.SIGINT))
    if given.until_stdin_closes:
        threading.Thread(target=_read_to_the_end, args=(stopping,), daemon=True).start()
    sys.exit(keep(InfraSettings(), stopping))


if __name__ == "__main__":
    main()
