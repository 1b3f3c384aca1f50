"""A real engine records its steps: they replay bit by bit; and it attributes by a profile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference.attribution_models import attribution_model
from inference.calibration import (
    Calibrated,
    CalibrationProfile,
    load_profile,
    save_profile,
)
from inference.engine_account import FinishedPart
from inference.step_recording import replay
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


@pytest.mark.deep
def test_engine_attributes_by_its_profile_and_names_it(
    start_engine: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    recorded: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    profile = CalibrationProfile(
        model=str(tiny_model),
        gpu_type="cpu",
        gpus=1,
        software="vllm",
        pass_fs=2 * 10**12,
        request_fs=10**10,
        token_fs=2 * 10**10,
        read_fs=2 * 10**8,
        pair_fs=10**7,
        steps=100,
        median_error_ppm=0,
    )
    save_profile(tmp_path / "profile.json", profile)
    monkeypatch.setenv("RENTROLL_INFERENCE_ATTRIBUTION", "calibrated")
    monkeypatch.setenv("RENTROLL_INFERENCE_CALIBRATION_FILE", str(tmp_path / "profile.json"))
    load = served(start_engine, 60)
    books = read_books(tmp_path / "host")
    assert_books_close(books, load)
    model = Calibrated(load_profile(tmp_path / "profile.json"))
    assert books.boot.attribution_model == model.name
    (path,) = recorded.iterdir()
    replayed = [one for one in replay(path, model) if isinstance(one, FinishedPart)]
    assert replayed == [record.part for record in books.parts]


def test_engine_with_a_malformed_profile_does_not_boot(
    start_engine: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profile.json").write_text('{"profile": {}}')
    monkeypatch.setenv("RENTROLL_INFERENCE_ATTRIBUTION", "calibrated")
    monkeypatch.setenv("RENTROLL_INFERENCE_CALIBRATION_FILE", str(tmp_path / "profile.json"))
    with pytest.raises(SettingsError, match=r"profile\.json.*missing required field"):
        start_engine()
