"""Looks at every server of a stack as its clients would, now."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from infra.process_mark import ProcessMark
from infra.settings import InfraSettings
from infra.stack.control import running_keeper
from infra.stack.members import Member, Plan, members, port_names
from infra.stack.state import MemberName, MemberState, Phase, Provided, read_state


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One row of `rentroll status`; `uptime_s` only where a process of ours serves."""

    name: MemberName
    provided: Provided
    address: str
    pid: int | None
    healthy: bool
    health: str
    uptime_s: int | None


@dataclass(frozen=True, slots=True)
class StackStatus:
    """The whole stack, and its keeper where one lives."""

    keeper: ProcessMark | None
    members: tuple[MemberStatus, ...]

    @property
    def healthy(self) -> bool:
        """Whether every member serves."""
        return bool(self.members) and all(member.healthy for member in self.members)


def stack_status(settings: InfraSettings) -> StackStatus:
    """Ask every member whether it serves; none is shown where no stack ever ran.

    Raises:
        ServerError: If stack.json is damaged.
    """
    state = read_state(settings.home)
    keeper = running_keeper(settings)
    means = state.means or "process"
    needed = {name for names in port_names(settings, means).values() for name in names}
    if not needed <= set(state.ports):
        return StackStatus(keeper, ())
    expected = members(Plan(settings, means, state.ports))
    seen = {member.name: member for member in state.members}
    with ThreadPoolExecutor(max_workers=len(expected)) as threads:
        serves = list(threads.map(lambda member: member.probe(), expected))
    rows = zip(expected, serves, strict=True)
    return StackStatus(
        keeper,
        tuple(
            _row(member, answers, seen.get(member.name), kept=keeper is not None)
            for member, answers in rows
        ),
    )


def _row(member: Member, answers: bool, seen: MemberState | None, *, kept: bool) -> MemberStatus:  # noqa: FBT001
    """What is known of one member, from its answer and from what its keeper saw."""
    process = seen.process if seen is not None and seen.process is not None else None
    alive = process is not None and process.is_alive()
    needs_keeper = member.provided != "url"
    healthy = answers and (kept or not needs_keeper)
    if not healthy:
        health = "down"
        if seen is not None and seen.phase is Phase.FAILED:
            health = "failed"
        elif seen is not None and kept:
            health = "starting" if seen.phase is Phase.STARTING else "down"
    else:
        restarts = seen.restarts if seen is not None else 0
        health = f"up, restarted {restarts}x" if restarts else "up"
    return MemberStatus(
        name=member.name,
        provided=member.provided,
        address=member.address,
        pid=process.pid if process is not None and alive else None,
        healthy=healthy,
        health=health,
        uptime_s=process.age_s() if process is not None and alive else None,
    )
