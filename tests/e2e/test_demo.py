"""The main job as a newcomer starts it: one command, real servers, every count compared."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference.simulate.assign import DEFAULT_ASSIGNMENT

pytestmark = pytest.mark.timeout(400)

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
BURST = ["2023-11-16 18:15:46.6805900,374,44"] * 20
SPREAD = [
    "2023-11-16 18:59:59.9999999,1500,1",
    "2023-11-16 18:59:59.9999999,0,0",
    "2023-11-16 19:00:00.0000000,7437,1000",
    "2023-11-16 19:20:00.5,16,3",
    "2023-11-17 03:00:00,4096,0",
    "2023-11-17 03:00:00,400000,90000",
]


def demo(
    folder: Path, *options: str, model: str = "none", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Without a model: the one with it is in tests/engine/served, where vLLM is installed."""
    return subprocess.run(
        [sys.executable, "-m", "rentroll", "demo", "--exit", "--model", model, *options],
        env=os.environ | {"RENTROLL_HOME": str(folder / "home"), "COLUMNS": "100"} | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )


def a_trace(folder: Path, *rows: str) -> Path:
    path = folder / "trace.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def servers_of(folder: Path) -> list[str]:
    """Command lines of processes that still work in this folder."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = line.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in text:
            found.append(text)
    return found


def test_traffic_with_bursts_and_gaps_becomes_invoices_and_everything_closes(
    tmp_path: Path,
) -> None:
    trace = a_trace(tmp_path, *BURST, *SPREAD)
    done = demo(tmp_path, "--trace", str(trace), "--report", "report.json")
    assert done.returncode == 0, done.stdout + done.stderr
    with trace.open() as file:
        rows = list(csv.DictReader(file))
    report = report_of(tmp_path)
    for stage in ("emitted", "logged", "ledger", "rolled_up", "rated", "stripe"):
        kinds = {kind: at[stage] for kind, at in report["tokens_by_kind"].items()}
        assert report["events"][stage] == len(rows)
        assert kinds["input_uncached_tokens"] + kinds["input_cache_read_tokens"] == sum(
            int(row["ContextTokens"]) for row in rows
        )
        assert kinds["output_text_tokens"] == sum(int(row["GeneratedTokens"]) for row in rows)
    assert report["amount_minor"]["rated"] == report["amount_minor"]["stripe"] > 0
    assert report["gpu_ns"]["stripe"] == report["gpu_ns"]["emitted"] > 0
    assert report["lost"] == report["doubled"] == report["held_hours"] == 0
    assert report["invoices"] > 0
    assert "USAGE STATEMENT" in done.stdout
    assert "every identity closes to zero" in done.stdout
    assert servers_of(tmp_path) == []


def test_an_empty_trace_bills_nothing_and_closes(tmp_path: Path) -> None:
    trace = a_trace(tmp_path)
    done = demo(tmp_path, "--trace", str(trace), "--report", "report.json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = report_of(tmp_path)
    assert set(report["events"].values()) == {0}
    assert report["invoices"] == 0


def test_a_bad_row_is_named_and_nothing_is_partly_billed(tmp_path: Path) -> None:
    trace = a_trace(tmp_path, *BURST, "2023-11-16 18:16:00,-5,7")
    done = demo(tmp_path, "--trace", str(trace), "--report", "report.json")
    assert done.returncode == 1
    assert f"{trace}:22" in done.stderr.replace("\n", "")
    assert "ContextTokens" in done.stderr
    assert "-5" in done.stderr
    assert not (tmp_path / "report.json").exists()
    assert servers_of(tmp_path) == []


def test_usage_without_a_price_holds_the_invoice_and_bills_nothing_at_zero(
    tmp_path: Path,
) -> None:
    from billing.price_book_file import EXAMPLE_PRICE_BOOK

    book = tmp_path / "prices.yaml"
    book.write_text(EXAMPLE_PRICE_BOOK.read_text().replace("llama-3.3-70b", "llama-of-others"))
    trace = a_trace(tmp_path, *BURST)
    done = demo(tmp_path, "--trace", str(trace), "--prices", str(book), "--report", "report.json")
    assert done.returncode == 1
    report = report_of(tmp_path)
    assert report["held_invoices"]
    assert all("llama-3.3-70b" in held for held in report["held_invoices"])
    assert report["events"]["rolled_up"] == len(BURST)
    assert report["events"]["rated"] < len(BURST)
    assert report["events"]["rated"] == report["events"]["stripe"]
    assert "held invoices" in done.stdout


def test_where_vllm_cannot_be_installed_it_says_why_and_bills_the_trace_alone(
    tmp_path: Path,
) -> None:
    trace = a_trace(tmp_path, *BURST)
    done = demo(
        tmp_path,
        *("--trace", str(trace), "--report", "report.json"),
        model="auto",
        RENTROLL_INFERENCE_CACHE_FOLDER=str(tmp_path / "cache"),
        UV_OFFLINE="1",
        UV_CACHE_DIR=str(tmp_path / "uv"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = report_of(tmp_path)
    assert re.search("the CPU engine|ends in a few minutes", report["why_no_model"])
    assert "no model was served" in done.stdout
    assert report["served"] is None
    assert set(report["events"].values()) == {len(BURST), 0}
    assert report["closes"]


def test_an_assignment_with_a_tenant_of_the_served_model_is_refused(tmp_path: Path) -> None:
    owners = tmp_path / "owners.yaml"
    owners.write_text(DEFAULT_ASSIGNMENT.read_text().replace("name: acme\n", "name: fern-legal\n"))
    done = demo(tmp_path, "--assign", str(owners), model="auto")
    assert done.returncode == 1
    assert "fern-legal" in done.stderr
    assert servers_of(tmp_path) == []
