"""A real engine records its steps: they replay bit by bit, and they calibrate it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference.attribution_models import attribution_model
from inference.calibration import Calibrated, calibrate, save_profile
from inference.engine_account import FinishedPart
from inference.step_recording import read_recording, replay, timed_steps
from schemas.errors import SettingsError
from tests.engine.spool_reading import read_books
from tests.engine.test_metered_engine import CROWDED, Load, assert_books_close

pytestmark = pytest.mark.engine


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that engines started in this test record into."""
    monkeypatch.setenv("RENTROLL_INFERENCE_RECORDED_STEPS_FOLDER", str(tmp_path / "steps"))
    return tmp_path / "steps"


def served(start: Callable[..., Any], requests: int, **options: Any) -> Load:
    engine = start(**options)
    load = Load(engine, seed=5)
    load.run(requests)
    engine.engine_core.shutdown()
    return load


def test_recorded_steps_replay_bit_by_bit_under_preemption_and_aborts(
    start_engine: Callable[..., Any], tmp_path: Path, recorded: Path
) -> None:
    load = served(start_engine, 150, **CROWDED)
    books = read_books(tmp_path / "host")
    assert_books_close(books, load)
    (path,) = recorded.iterdir()
    runs = [list(replay(path, attribution_model("fixed_marginal"))) for _ in range(2)]
    assert msgspec.json.encode(runs[0]) == msgspec.json.encode(runs[1])
    parts = [one for one in runs[0] if isinstance(one, FinishedPart)]
    spans = [one for one in runs[0] if not isinstance(one, FinishedPart)]
    assert parts == [record.part for record in books.parts]
    assert spans == [record.interval for record in books.spans]


def test_engine_is_calibrated_by_its_own_steps_and_names_the_profile(
    start_engine: Callable[..., Any],
    tmp_path: Path,
    recorded: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served(start_engine, 150)
    (path,) = recorded.iterdir()
    facts, _ = read_recording(path)
    profile = calibrate(
        list(timed_steps(path)),
        model=facts.model,
        gpu_type=facts.gpu_type,
        gpus=facts.gpus,
        software=facts.software,
    )
    save_profile(tmp_path / "profile.json", profile)
    monkeypatch.setenv("RENTROLL_INFERENCE_ATTRIBUTION", "calibrated")
    monkeypatch.setenv("RENTROLL_INFERENCE_CALIBRATION_FILE", str(tmp_path / "profile.json"))
    monkeypatch.setenv("RENTROLL_INFERENCE_HOST_FOLDER", str(tmp_path / "calibrated"))
    load = served(start_engine, 60)
    books = read_books(tmp_path / "calibrated")
    assert_books_close(books, load)
    assert books.boot.attribution_model == Calibrated(profile).name


def test_engine_with_a_malformed_profile_does_not_boot(
    start_engine: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profile.json").write_text('{"profile": {}}')
    monkeypatch.setenv("RENTROLL_INFERENCE_ATTRIBUTION", "calibrated")
    monkeypatch.setenv("RENTROLL_INFERENCE_CALIBRATION_FILE", str(tmp_path / "profile.json"))
    with pytest.raises(SettingsError, match=r"profile\.json.*missing required field"):
        start_engine()
