"""What the doctor says about a machine that is to serve a model."""

from pathlib import Path

import pytest

from inference.door_keys import write_snapshot
from inference.serve_child import Run, RunFile
from inference.serve_doctor import examine_serving
from inference.serve_supervisor import SERVE_FOLDER
from inference.settings import InferenceSettings
from infra.process_mark import mark
from infra.stack.doctor import Check
from schemas.clock import FixedClock
from schemas.units import NS_PER_MS
from tests.support.doors import door_key, snapshot

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000


def checks(folder: Path, **changes: object) -> dict[str, Check]:
    settings = InferenceSettings.model_validate(
        {
            "host_folder": folder / "host",
            "door_keys_file": folder / "keys.json",
            "cache_folder": folder / "cache",
            "spool_max_bytes": 1_000_000,
            **changes,
        }
    )
    found = examine_serving(settings, FixedClock(NOW_MS * NS_PER_MS))
    return {check.name: check for check in found}


def serving(folder: Path) -> RunFile:
    """A run file as a supervisor that lives writes it: this process is it."""
    import os

    run_file = RunFile(folder / "host" / SERVE_FOLDER)
    run_file.take()
    run_file.write(Run(supervisor=mark(os.getpid()), base_url="http://127.0.0.1:1"))
    return run_file


def test_machine_without_vllm_is_well_and_told_what_serving_needs(tmp_path: Path) -> None:
    found = checks(tmp_path)
    assert all(check.ok for check in found.values())
    assert "make vllm" in found["vLLM"].found


def test_vllm_that_does_not_run_is_found_with_what_it_said(tmp_path: Path) -> None:
    from inference.vllm_environment import environment_folder, python_of

    python = python_of(environment_folder(InferenceSettings(cache_folder=tmp_path / "cache")))
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho libtorch is missing >&2\nexit 1\n")
    python.chmod(0o755)
    found = checks(tmp_path)["vLLM"]
    assert (found.ok, found.found) == (False, "libtorch is missing")


@pytest.mark.parametrize(
    ("age_ms", "serves", "ok"),
    [
        (HOUR_MS - 1_000, True, True),
        (HOUR_MS + 1_000, False, True),
        (HOUR_MS + 1_000, True, False),
    ],
)
def test_old_snapshot_is_a_fault_only_while_a_model_is_served(
    tmp_path: Path, age_ms: int, serves: bool, ok: bool
) -> None:
    write_snapshot(tmp_path / "keys.json", snapshot([door_key(1)], at_ms=NOW_MS - age_ms))
    run_file = serving(tmp_path) if serves else None
    found = checks(tmp_path)
    assert found["Snapshot of keys"].ok == ok
    assert ("Served model" in found) == serves
    if run_file is not None:
        run_file.release()


def test_damaged_snapshot_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    assert not checks(tmp_path)["Snapshot of keys"].ok


def test_disk_without_room_for_the_spools_is_a_fault(tmp_path: Path) -> None:
    found = checks(tmp_path, spool_max_bytes=2**60)["Spool folder"]
    assert not found.ok
    assert "RENTROLL_INFERENCE_SPOOL_MAX_BYTES" in found.remedy
