"""`rentroll simulate` as a person runs it: files in, a table and a report out, clear errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

from inference.simulate.assign import EXAMPLES
from tests.support.simulated import outbox_rows, rows_at, write_trace


def rentroll(folder: Path, *words: str, home: str = "none") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rentroll", "simulate", *words]
    environment = {**os.environ, "RENTROLL_HOME": str(folder / home), "COLUMNS": "100"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=60,
        env={**environment, "PYTHONPATH": str(EXAMPLES.parents[2])},
    )


def test_sample_is_simulated_into_outboxes_and_reported(tmp_path: Path) -> None:
    done = rentroll(tmp_path, "--rewrite-time-to", "2026-10", "--no-publish", "--report", "r.json")
    assert done.returncode == 0, done.stderr
    assert "requests finished" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["events"] == 300
    assert report["gpu_time"]["unexplained_ns"] == 0
    assert report["assignment"]["tenants"] == ["acme", "globex", "hooli", "initech", "umbrella"]
    assert len(outbox_rows(tmp_path)) == report["records"]


def test_wrong_row_is_shown_in_one_line_and_nothing_is_emitted(tmp_path: Path) -> None:
    trace = write_trace(tmp_path, *rows_at(3), "2023-11-16 19:00:00,12,-4")
    done = rentroll(tmp_path, "--trace", str(trace), "--no-publish", "--spool", "out")
    assert done.returncode == 1
    assert "trace.csv:5: column GeneratedTokens: '-4' is negative" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_fleet_and_its_seed_make_a_simulation(tmp_path: Path) -> None:
    fleet = str(EXAMPLES / "fleet.yaml")
    done = rentroll(tmp_path, "--fleet", fleet, "--seed", "4", "--no-publish", "--spool", "out")
    assert done.returncode == 0, done.stderr
    assert "4,320" in done.stdout


def test_without_a_stack_publishing_says_what_to_do(tmp_path: Path) -> None:
    done = rentroll(tmp_path, "--spool", "out")
    assert done.returncode == 1
    assert "rentroll up" in done.stderr


def test_options_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    done = rentroll(tmp_path, "--rewrite-time-to", "2026-10", "--end-now", "--no-publish")
    assert done.returncode == 2
    assert "not both" in done.stderr
