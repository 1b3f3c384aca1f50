"""A run's identity, and the equalities that stop it."""

from dataclasses import replace

import pytest

from schemas.errors import ConservationError, ContractError
from schemas.tables import ROLLUP_MEASURES
from streams.rollup import (
    NO_COUNT,
    HourSums,
    LedgerCount,
    offsets_text,
    refuse_unequal_ledger,
    refuse_unequal_run,
    run_id,
)
from streams.rollup_sql import HourRange, Offsets

HOUR = 1_790_812_800_000
MEASURES = tuple(7 if name == "gpu_ns" else 2 for name in ROLLUP_MEASURES)
SUMS = HourSums("d" * 64, MEASURES)
COUNT = LedgerCount(stored=3, rows=3, proven=2, gpu_ns=4, parts=1, parts_gpu_ns=3)


def test_run_id_depends_on_everything_that_decides_its_rows() -> None:
    same = run_id(HOUR, "{}", "d", 0)
    assert run_id(HOUR, "{}", "d", 0) == same
    others = {
        run_id(HOUR + 3_600_000, "{}", "d", 0),
        run_id(HOUR, '{"usage.v1/0":1}', "d", 0),
        run_id(HOUR, "{}", "e", 0),
        run_id(HOUR, "{}", "d", 1),
    }
    assert len(others | {same}) == 5


def test_ledger_that_agrees_is_accepted() -> None:
    refuse_unequal_ledger(HOUR, SUMS, COUNT, NO_COUNT, 2)


@pytest.mark.parametrize(
    ("count", "dropped", "by_sources", "message"),
    [
        (COUNT, NO_COUNT, 3, "the sources prove 3 requests, the ledger now shows 2"),
        (COUNT, LedgerCount(proven=1), 2, "2 proven - 1 dropped"),
        (replace(COUNT, gpu_ns=5), NO_COUNT, 2, "gpu_ns 7 to roll up, the ledger has 8"),
        (replace(COUNT, parts_gpu_ns=2), NO_COUNT, 2, "the ledger has 6"),
    ],
)
def test_ledger_that_differs_stops_the_run(
    count: LedgerCount, dropped: LedgerCount, by_sources: int, message: str
) -> None:
    with pytest.raises(ConservationError, match=message):
        refuse_unequal_ledger(HOUR, SUMS, count, dropped, by_sources)


@pytest.mark.parametrize("measure", range(len(ROLLUP_MEASURES)))
def test_written_run_that_differs_in_any_measure_is_refused(measure: int) -> None:
    refuse_unequal_run(HOUR, "r", SUMS, HourSums("", MEASURES))
    wrong = list(MEASURES)
    wrong[measure] += 1
    with pytest.raises(ConservationError, match=ROLLUP_MEASURES[measure]):
        refuse_unequal_run(HOUR, "r", SUMS, HourSums("", tuple(wrong)))


def test_offsets_are_told_in_one_way_only() -> None:
    offsets = Offsets({("usage.v1", 10): 3, ("usage.v1", 2): 4, ("control.v1", 0): 1})
    assert offsets_text(offsets.named()) == ('{"control.v1/0":1,"usage.v1/10":3,"usage.v1/2":4}')


def test_offset_vector_without_a_partition_reads_nothing() -> None:
    assert Offsets({}).condition() == "0"
    assert "usage.v1" in Offsets({("usage.v1", 0): 3}).condition()


def test_topic_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ContractError, match="unknown topic"):
        Offsets({("x' OR 1", 0): 3}).condition()


def test_hour_range_is_half_open() -> None:
    assert HourRange(0, 5).condition().count(">=") == 1


def test_sums_are_read_by_name() -> None:
    assert SUMS.measure("gpu_ns") == 7
    assert SUMS.quantities()["requests"] == 2
