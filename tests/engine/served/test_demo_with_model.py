"""The main job with a real model: clients, engine and every stage up to Stripe count the same."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
STAGES = ("emitted", "logged", "ledger", "rolled_up", "rated", "stripe")
ROWS = 300


def demo(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rentroll", "demo", "--exit", "--report", "report.json"]
    return subprocess.run(
        [*command, *options],
        env=os.environ | {"RENTROLL_HOME": str(folder / "home"), "COLUMNS": "100"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )


def still_there(folder: Path) -> list[str]:
    """Processes that name the folder in their command line or in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text and int(process.name) != os.getpid():
            found.append(text.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


@pytest.mark.deep
def test_a_served_model_and_a_trace_are_billed_in_one_period_and_everybody_counts_the_same(
    tmp_path: Path,
) -> None:
    done = demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    assert report["why_no_model"] == ""
    served = report["served"]
    assert served["disagreements"] == []
    asked = sum(served["endings"].values())
    assert set(served["endings"]) == {"answered", "cut", "refused"}
    assert {served["events"][side] for side in ("clients", "engine", *STAGES)} == {asked}
    for meter in ("input_uncached_tokens", "input_cache_read_tokens", "output_text_tokens"):
        of_meter = served["tokens_by_kind"][meter]
        assert {of_meter[side] for side in ("clients", *STAGES)} == {of_meter["engine"]}
        assert of_meter["engine"] > 0
    assert served["gpu_ns"]["engine"] == served["gpu_ns"]["stripe"] > 0
    assert served["amount_minor"]["stripe"] == served["amount_minor"]["rated"] > 0
    for stage in STAGES:
        assert report["events"][stage] == ROWS + asked
    assert report["amount_minor"]["stripe"] > served["amount_minor"]["stripe"]
    assert report["closes"]
    assert report["held_hours"] == report["lost"] == report["doubled"] == 0
    assert "every identity closes to zero" in done.stdout
    assert still_there(tmp_path) == []
