"""The sink under thousands of schedules: nothing lost, doubled or silent; planted faults found."""

import pytest

from tests.simulation.life import Build
from tests.simulation.many import Tally, run_random, sweep
from tests.simulation.planted import PLANTED, Planted
from tests.simulation.schedule import Schedule, run_schedule

SCHEDULES = 800
ENOUGH_TO_FIND_A_FAULT = 600
MANY_STEPS_APART = 7


def test_no_schedule_loses_or_doubles_anything_or_gets_stuck() -> None:
    tally = run_random(0, SCHEDULES)
    assert tally.findings == []
    assert tally.steps > 100 * SCHEDULES


def test_kill_at_any_step_loses_and_doubles_nothing() -> None:
    tally = Tally()
    for seed in range(5):
        tally.add(sweep(seed, MANY_STEPS_APART))
    assert tally.schedules > 100
    assert tally.findings == []


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_planted_fault_is_found(planted: Planted) -> None:
    for seed in range(ENOUGH_TO_FIND_A_FAULT):
        verdict = run_schedule(seed, planted.build)
        if any(finding.startswith(planted.word) for finding in verdict.findings):
            return
    pytest.fail(f"{planted.name} was not found in {ENOUGH_TO_FIND_A_FAULT} schedules")


def test_the_same_seed_is_the_same_schedule_step_by_step() -> None:
    def trace(seed: int) -> tuple[int, float, list[tuple[str, int, int]]]:
        schedule = Schedule(seed)
        verdict = schedule.run()
        return verdict.steps, schedule.universe.time(), sorted(schedule.ledger.stored.elements())

    for seed in range(20):
        assert trace(seed) == trace(seed)


def test_retention_that_passes_unread_records_is_said() -> None:
    said = 0
    for seed in range(400):
        verdict = run_schedule(seed)
        said += verdict.alarmed
    assert said > 0


def test_a_build_without_a_fault_is_the_product() -> None:
    assert run_schedule(1, Build()).findings == []


@pytest.mark.parametrize(
    ("seed", "what"),
    [
        (40_913, "a cancelled timeout is due when the universe ends"),
        (42_523, "a partition is revoked twice at once, and assigned again in between"),
        (46_710, "a commit comes late, after the last one: the next owner writes all again"),
        (51_878, "what is unread expires whole while a range before it is being written"),
    ],
)
def test_schedule_that_once_went_wrong_goes_well(seed: int, what: str) -> None:
    """Each was one of 100,000."""
    assert run_schedule(seed).findings == [], what
