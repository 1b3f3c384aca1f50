"""The first chaos trials of a fixed seed; `make chaos TRIALS=1000` runs more, of any seed."""

import random
from pathlib import Path

import pytest

from tests.chaos.driver import run_trials
from tests.chaos.trials.faults import FAULTS, draw

TRIALS = 25
SEED = "ci"


@pytest.mark.timeout(1_800)
def test_trials_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    outcomes = list(run_trials(tmp_path, SEED, range(TRIALS)))
    assert [outcome for outcome in outcomes if not outcome.is_good] == []
    assert len(outcomes) == TRIALS
    assert sum(outcome.sent for outcome in outcomes) > 20 * TRIALS


def test_every_fault_is_drawn_within_a_few_hundred_trials() -> None:
    drawn = {fault.name for number in range(400) for fault in draw(random.Random(f"x/{number}"))}
    assert drawn == {fault.name for fault in FAULTS}
