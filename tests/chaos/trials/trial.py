"""One trial: events arrive, something goes wrong, and the ledger comes to be what was sent."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from infra.clickhouse.client import ClickHouseError
from tests.chaos.trials.expected import Difference, alarms_in
from tests.chaos.trials.faults import Fault, draw
from tests.chaos.trials.lane import PATIENCE_S, Lane
from tests.support.events import OCTOBER_MS, HostScript, Record

WORKERS = 2
PORTIONS = 2
REQUESTS = 24
_LOOK_S = 0.1


@dataclass(slots=True)
class Outcome:
    """What came of one trial."""

    number: int
    faults: list[str] = field(default_factory=list)
    sent: int = 0
    lost: int = 0
    doubled: int = 0
    alarmed: int = 0
    copies: int = 0
    """Of its whole lane, looked at when that ends."""
    wall_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)


def run_trial(lane: Lane, seed: str, number: int, only: Sequence[str] = ()) -> Outcome:
    """Run one on a lane that earlier ones may have used.

    Args:
        lane: Where; it has what earlier trials sent, in log, ledger and model.
        seed: Of the whole run.
        number: The trial's.
        only: Names of faults to draw from; all of them by default.
    """
    luck = random.Random(f"{seed}/{number}")
    faults = draw(luck, only)
    outcome = Outcome(number, [fault.name for fault in faults])
    began = time.monotonic()
    portions = _traffic(f"trial {seed}/{number}", luck)
    while len(lane.working()) < WORKERS:
        lane.start_worker()
    for place, records in enumerate(portions):
        lane.expected.send(records, [b"noise %d/%d" % (number, place)])
        outcome.sent += len(records) + 1
        for fault in faults[place : place + 1]:
            _do(lane, fault, luck)
        time.sleep(luck.uniform(0.0, 0.15))
    lane.servers.gate.open()
    while len(lane.working()) < WORKERS:
        lane.start_worker()
    difference = _settle(lane)
    outcome.lost, outcome.doubled = difference.lost, difference.doubled
    outcome.alarmed = difference.alarmed
    outcome.wrong = difference.examples[:5] + lane.wrong_ends()
    outcome.wall_s = time.monotonic() - began
    return outcome


def _do(lane: Lane, fault: Fault, luck: random.Random) -> None:
    while not lane.working():
        lane.start_worker()
    fault.do(lane, luck)


def _settle(lane: Lane) -> Difference:
    """Look until the ledger is what it should be, or for too long."""
    deadline = time.monotonic() + PATIENCE_S
    rescue_at = time.monotonic() + 1.0
    while True:
        if time.monotonic() > rescue_at:
            # Fate waits for a step that may not come any more, and the frozen for a hand.
            lane.end_what_is_planned()
            while len(lane.working()) < WORKERS:
                lane.start_worker()
        try:
            if not lane.expected.gone and not lane.expected.is_complete(lane.ledger):
                difference = Difference(lost=1, examples=["fewer rows than were sent"])
            else:
                difference = lane.expected.difference(lane.ledger, alarms_in(lane.folder))
        except ClickHouseError as error:
            difference = Difference(lost=1, examples=[str(error)])
        if not difference or time.monotonic() > deadline:
            return difference
        time.sleep(_LOOK_S)


def _traffic(name: str, luck: random.Random) -> list[list[Record]]:
    """One host's whole life in portions; some records come twice, as outboxes send them."""
    host = HostScript(name)
    for place in range(REQUESTS):
        request = host.request(OCTOBER_MS + 60_000 + place * 3, f"tenant-{place % 5}")
        if place % 10 == 0:
            host.part_of(request)
    host.lost(OCTOBER_MS + 90_000)
    host.interval(OCTOBER_MS + 1_200_000)
    host.closed(OCTOBER_MS + 1_300_000)
    records = [*host.records, *luck.sample(host.records, 4)]
    size = -(-len(records) // PORTIONS)
    return [records[start : start + size] for start in range(0, len(records), size)]
