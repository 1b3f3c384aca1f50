"""A profile is fitted to timed steps, sealed, and refused when it is not what was measured."""

import random
from pathlib import Path

import msgspec
import pytest

from inference.attribution import EngineProfile, StepWork, attribute
from inference.boot_meter import engine_model
from inference.calibration import (
    Calibrated,
    CalibrationProfile,
    SealedProfile,
    calibrate,
    load_profile,
    save_profile,
    terms_of,
)
from inference.settings import InferenceSettings
from inference.step_recording import TimedStep
from schemas.errors import SettingsError

PROFILE = CalibrationProfile(
    model="tiny",
    gpu_type="cpu",
    gpus=1,
    software="vllm 0.32.0",
    pass_fs=6_000 * 10**9,
    request_fs=40 * 10**9,
    token_fs=30 * 10**9,
    read_fs=49 * 10**6,
    pair_fs=5 * 10**6,
    steps=100,
    median_error_ppm=20_000,
)
SHAPE = EngineProfile(1, 1, 1, 1, 1, 1, 0)
ENGINE = {"model": "tiny", "gpu_type": "cpu", "gpus": 1}


def steps_of(profile: CalibrationProfile, *, noise_percent: int = 0) -> list[TimedStep]:
    """Steps of every kind, as an engine of that profile takes them; every 20th stalls."""
    dice = random.Random(11)
    steps = []
    for number in range(240):
        count = dice.choice([1, 2, 5, 16, 40, 64])
        tokens, computed = [1] * count, [dice.randint(10, 6_000) for _ in range(count)]
        if number % 2:
            tokens[0] = dice.randint(8, 2_000)
        work = StepWork(1, tokens, computed)
        busy_ns = profile.step_ns(work)
        busy_ns += busy_ns * dice.randint(-noise_percent, noise_percent) // 100
        steps.append(TimedStep(work, busy_ns * (50 if noise_percent and number % 20 == 7 else 1)))
    return steps


def calibrated(steps: list[TimedStep]) -> CalibrationProfile:
    return calibrate(steps, software="vllm 0.32.0", **ENGINE)  # type: ignore[arg-type]


def test_costs_that_made_the_times_are_found() -> None:
    found = calibrated(steps_of(PROFILE))
    for measured, true in zip(found.coefficients(), PROFILE.coefficients(), strict=True):
        assert abs(measured - true) <= true // 1_000
    assert found.median_error_ppm < 10


def test_stalls_and_noise_hardly_move_the_costs() -> None:
    found = calibrated(steps_of(PROFILE, noise_percent=3))
    assert found.steps < 240
    for step in steps_of(PROFILE):
        assert abs(found.step_ns(step.work) - step.busy_ns) < step.busy_ns * 5 // 100


def test_the_same_steps_give_the_same_profile() -> None:
    steps = steps_of(PROFILE, noise_percent=3)
    assert calibrated(steps) == calibrated(list(steps))


def test_no_cost_is_negative_where_steps_seem_to_say_so() -> None:
    # The longer the context, the faster.
    steps = [
        TimedStep(StepWork(1, [1] * n, [c] * n), 10**6 + 10**4 * n + 10**9 // c)
        for n in range(1, 20)
        for c in (100, 1_000, 5_000)
    ]
    assert min(calibrated(steps).coefficients()) >= 0


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(SettingsError, match="needs 40 timed steps, not 39"):
        calibrated(steps_of(PROFILE)[:39])


def test_steps_that_say_nothing_about_tokens_are_refused() -> None:
    dice = random.Random(1)
    steps = [one._replace(busy_ns=10 ** dice.randint(3, 9)) for one in steps_of(PROFILE)]
    with pytest.raises(SettingsError, match=r"a token costs nothing|median_error_ppm is"):
        calibrated(steps)


def test_shares_are_equal_parts_of_the_pass_and_ones_own_cost() -> None:
    work = StepWork(1, [500, 1, 1], [0, 4_000, 10])
    total_ns = PROFILE.step_ns(work)
    shares = attribute(Calibrated(PROFILE), SHAPE, 1, total_ns, work, ["a", "b", "c"])
    for index, share_ns in enumerate(shares):
        alone = StepWork(1, [work.tokens[index]], [work.computed[index]])
        own_fs = PROFILE.step_ns(alone) * 10**6 - PROFILE.pass_fs
        assert abs(share_ns - (PROFILE.pass_fs // 3 + own_fs) // 10**6) <= 2
    assert sum(shares) == total_ns


def test_terms_of_several_passes_count_each_pass() -> None:
    assert terms_of(StepWork(3, [3, 3], [10, 20])) == (3, 6, 6, 36 + 66, 36 + 66)


def test_saved_profile_is_read_back_and_named_by_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "profiles" / "tiny.json"
    save_profile(path, PROFILE)
    assert load_profile(path) == PROFILE
    name = Calibrated(PROFILE).name
    assert name.startswith("calibrated.1@")
    other = msgspec.structs.replace(PROFILE, token_fs=PROFILE.token_fs + 1)
    assert Calibrated(other).name != name


def sealed(path: Path, **changes: object) -> Path:
    profile = msgspec.structs.replace(PROFILE, **changes)
    path.write_bytes(msgspec.json.encode(SealedProfile(profile, profile.digest())))
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token_fs": -1}, r"token_fs must be in \[0, "),
        ({"pass_fs": 0}, r"pass_fs must be in \[1, "),
        ({"read_fs": 10**16 + 1}, "read_fs must be in"),
        ({"token_fs": 0, "request_fs": 0, "read_fs": 0}, "a token costs nothing"),
        ({"median_error_ppm": 300_001}, "median_error_ppm is 300001"),
        ({"gpus": 0}, "gpus=0"),
        ({"format": "rentroll.calibration.9"}, "format is 'rentroll.calibration.9'"),
        ({"token_fs": 1.5}, "Expected `int`, got `float` - at `\\$.profile.token_fs`"),
    ],
)
def test_sealed_profile_that_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        load_profile(sealed(tmp_path / "profile.json", **changes))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"token_fs": 30000000000', '"token_fs": 31000000000', "was changed after it was measured"),
        ('"token_fs"', '"token_ns"', "unknown field `token_ns`"),
        ('"sha256"', '"sha1"', "unknown field `sha1`"),
        ('"profile": {', '"profile": [', "malformed|Expected `object`"),
    ],
)
def test_file_that_was_changed_is_refused_and_says_what_to_do(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = tmp_path / "profile.json"
    save_profile(path, PROFILE)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(SettingsError, match=f"{path}.*{said}.*rentroll calibrate"):
        load_profile(path)


def settings_of(path: Path | None) -> InferenceSettings:
    return InferenceSettings(attribution="calibrated", calibration_file=path)


def test_engine_takes_the_profile_that_its_settings_name(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    save_profile(path, PROFILE)
    found = engine_model(settings_of(path), **ENGINE)  # type: ignore[arg-type]
    assert found.name == Calibrated(PROFILE).name
    assert engine_model(InferenceSettings(), **ENGINE).name == "fixed_marginal.2"  # type: ignore[arg-type]


@pytest.mark.parametrize(("field", "here"), [("model", "other"), ("gpu_type", "h100"), ("gpus", 2)])
def test_profile_of_another_engine_is_refused(tmp_path: Path, field: str, here: object) -> None:
    path = tmp_path / "profile.json"
    save_profile(path, PROFILE)
    with pytest.raises(SettingsError, match=f"measured on {field}=.*this engine has {here}"):
        engine_model(settings_of(path), **{**ENGINE, field: here})  # type: ignore[arg-type]


def test_calibrated_without_a_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="RENTROLL_INFERENCE_CALIBRATION_FILE names no profile"):
        engine_model(settings_of(None), **ENGINE)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="No such file"):
        engine_model(settings_of(tmp_path / "nowhere.json"), **ENGINE)  # type: ignore[arg-type]
