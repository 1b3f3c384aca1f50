"""What can go wrong in a trial: each fault is done to a lane while events arrive."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.chaos.trials.gate import Mode
from tests.chaos.trials.lane import Lane

STEPS = (
    "before-promise",
    "after-promise",
    "before-dead-letters",
    "after-dead-letters",
    "before-insert",
    "after-insert",
    "before-settle",
    "after-settle",
)
PARTITIONS_MAX = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: its name in the table, how often it is drawn, and what it does."""

    name: str
    weight: int
    do: Callable[[Lane, random.Random], None]


def _at_a_step(what: str) -> Callable[[Lane, random.Random], None]:
    def do(lane: Lane, luck: random.Random) -> None:
        worker = luck.choice(lane.working())
        lane.plan(worker, luck.choice(STEPS), luck.randint(1, 3), what)

    return do


def _signal(number: signal.Signals) -> Callable[[Lane, random.Random], None]:
    return lambda lane, luck: lane.strike(luck.choice(lane.working()), number)


def _kill_all(lane: Lane, _luck: random.Random) -> None:
    """Nobody is there for days."""
    lane.kill_all()


def _another_worker(lane: Lane, luck: random.Random) -> None:
    """A rebalance while inserts are under way: they are slow, so that some are."""
    lane.servers.gate.mode, lane.servers.gate.delay_s = "slow", 0.3
    lane.start_worker()
    time.sleep(luck.uniform(0.2, 0.6))


def _gate(mode: Mode, delay_s: float = 0.0) -> Callable[[Lane, random.Random], None]:
    def do(lane: Lane, luck: random.Random) -> None:
        lane.servers.gate.mode, lane.servers.gate.delay_s = mode, delay_s
        time.sleep(luck.uniform(0.2, 0.8))

    return do


def _clickhouse_killed(lane: Lane, luck: random.Random) -> None:
    time.sleep(luck.uniform(0.0, 0.2))
    lane.servers.clickhouse.kill()
    lane.servers.clickhouse.start()


def _clickhouse_frozen(lane: Lane, luck: random.Random) -> None:
    lane.servers.clickhouse.freeze()
    time.sleep(luck.uniform(0.3, 2.5))
    lane.servers.clickhouse.thaw()


def _broker_killed(lane: Lane, luck: random.Random) -> None:
    time.sleep(luck.uniform(0.0, 0.2))
    lane.servers.kafka.kill()
    lane.servers.kafka.start()


def _broker_frozen(lane: Lane, luck: random.Random) -> None:
    lane.servers.kafka.freeze()
    time.sleep(luck.uniform(0.3, 2.0))
    lane.servers.kafka.thaw()


def _partition_added(lane: Lane, _luck: random.Random) -> None:
    if lane.partitions < PARTITIONS_MAX:
        lane.add_partition()


def _retention(lane: Lane, luck: random.Random) -> None:
    """Nobody reads, and the log deletes what nobody has read."""
    _kill_all(lane, luck)
    spots = [spot for spots in list(lane.expected.rows.values())[-30:] for spot in spots]
    read_from = [spot for spot in spots if spot[0] == "usage.v1"]
    if read_from:
        _, partition, offset = luck.choice(read_from)
        lane.delete_unread(partition, offset)


def _forgotten(lane: Lane, luck: random.Random) -> None:
    _kill_all(lane, luck)
    lane.forget_commits()


FAULTS = (
    Fault("kill -9 at a step", 24, _at_a_step("kill")),
    Fault("SIGTERM at a step", 8, _at_a_step("term")),
    Fault("loop stalls at a step", 5, _at_a_step("stall")),
    Fault("frozen at a step", 6, _at_a_step("freeze")),
    Fault("kill -9 at any time", 8, _signal(signal.SIGKILL)),
    Fault("SIGTERM at any time", 6, _signal(signal.SIGTERM)),
    Fault("all workers die", 4, _kill_all),
    Fault("rebalance during an insert", 6, _another_worker),
    Fault("ClickHouse away", 5, _gate("away")),
    Fault("ClickHouse slow", 4, _gate("slow", 0.7)),
    Fault("ClickHouse's answer lost", 5, _gate("answer lost")),
    Fault("ClickHouse told after the time-out", 5, _gate("late", 2.4)),
    Fault("connection cut in a request", 4, _gate("cut")),
    Fault("ClickHouse killed mid-insert", 3, _clickhouse_killed),
    Fault("ClickHouse frozen", 3, _clickhouse_frozen),
    Fault("broker killed", 1, _broker_killed),
    Fault("broker frozen", 3, _broker_frozen),
    Fault("partition added", 2, _partition_added),
    Fault("retention passes the group", 3, _retention),
    Fault("commits forgotten", 2, _forgotten),
)


def draw(luck: random.Random, only: Sequence[str] = ()) -> list[Fault]:
    """One or two faults; of those with these names, if any are named."""
    faults = [fault for fault in FAULTS if not only or fault.name in only]
    weights = [fault.weight for fault in faults]
    return luck.choices(faults, weights, k=luck.choice((1, 1, 2)))
