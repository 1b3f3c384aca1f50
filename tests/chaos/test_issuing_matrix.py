"""A seeded sample of the crash matrix; `make chaos-invoices` runs all of it."""

from pathlib import Path

from tests.chaos.issuing_matrix import FAULTS, POINTS, WRITES, all_cells, run_cells, sample
from tests.support.forked_runs import forked_runs

CELLS = 8


def test_sample_of_the_matrix_ends_with_one_invoice_each(tmp_path: Path) -> None:
    with forked_runs() as process:
        done = run_cells(sample(CELLS, seed=7), process, tmp_path)
    assert done.total() == CELLS
    assert set(done) == set(FAULTS)


def test_matrix_is_every_point_write_and_fault_once() -> None:
    cells = all_cells()
    assert len(set(cells)) == len(cells) == POINTS * len(WRITES) * len(FAULTS) == 750
