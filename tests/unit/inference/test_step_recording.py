"""A recording of an engine's steps replays to the same attribution, bit by bit."""

from pathlib import Path

import msgspec
import pytest

from bench.attribution_mixes import MIXES, Mix
from inference.attribution_models import attribution_model, model_of_version
from inference.calibration import terms_of
from inference.engine_account import FinishedPart, Interval
from inference.step_recording import Recording, read_recording, replay, timed_steps
from schemas.errors import ConservationError, InputFileError, SettingsError
from tests.support.recorded import recorded_run

MIX = MIXES[0].scaled(20)
DEFAULT = attribution_model("fixed_marginal")


def bits(outputs: list[FinishedPart | Interval]) -> bytes:
    return msgspec.json.encode(outputs)


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_two_runs_of_the_same_recorded_steps_are_bit_identical(mix: Mix, tmp_path: Path) -> None:
    path = tmp_path / "engine.steps.jsonl"
    said = recorded_run(mix.scaled(20), path)
    facts, _ = read_recording(path)
    first = list(replay(path, model_of_version(facts.attribution_model)))
    second = list(replay(path, model_of_version(facts.attribution_model)))
    assert bits(first) == bits(second) == bits(said)
    assert any(isinstance(one, FinishedPart) for one in said)


def test_preemptions_are_replayed_too(tmp_path: Path) -> None:
    path = tmp_path / "engine.steps.jsonl"
    said = recorded_run(MIXES[2], path)
    assert any(one.recomputed_tokens for one in said if isinstance(one, FinishedPart))
    assert bits(list(replay(path, DEFAULT))) == bits(said)


def test_another_model_shares_the_same_time_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "engine.steps.jsonl"
    said = recorded_run(MIX, path)
    other = list(replay(path, attribution_model("token_share")))
    assert bits(other) != bits(said)

    def attributed(outputs: list[FinishedPart | Interval]) -> int:
        return sum(one.attributed_ns for one in outputs if isinstance(one, Interval))

    assert attributed(other) == attributed(said) > 0


def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "engine.steps.jsonl"
    said = recorded_run(MIX, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    parts = [one for one in replay(path, DEFAULT) if isinstance(one, FinishedPart)]
    assert parts == [one for one in said if isinstance(one, FinishedPart)]


def test_recording_ends_at_its_bound_and_the_metering_goes_on(tmp_path: Path) -> None:
    path, whole = tmp_path / "short.jsonl", tmp_path / "whole.jsonl"
    assert bits(recorded_run(MIX, path, max_bytes=20_000)) == bits(recorded_run(MIX, whole))
    assert path.stat().st_size <= 20_000
    short = list(replay(path, DEFAULT))
    assert short == list(replay(whole, DEFAULT))[: len(short)]


def test_recording_that_the_disk_refuses_ends_and_fails_nothing(tmp_path: Path) -> None:
    recorded_run(MIX, tmp_path / "engine.steps.jsonl")
    facts, _ = read_recording(tmp_path / "engine.steps.jsonl")
    recording = Recording(tmp_path / "full.jsonl", facts, max_bytes=1 << 20)
    recording._file.close()
    # Whatever is written to this device, no space is left on it.
    recording._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - closed below
    recording.write(("started", 1))
    assert not recording.complete
    recording.write(("started", 2))
    recording.flush()
    recording.close()


def test_timed_steps_take_what_the_engine_was_busy(tmp_path: Path) -> None:
    path = tmp_path / "engine.steps.jsonl"
    said = recorded_run(MIX, path)
    steps = list(timed_steps(path))
    intervals = [one for one in said if isinstance(one, Interval)]
    assert len(steps) == sum(one.steps for one in intervals)
    busy_ns = sum(one.attributed_ns + one.stall_ns for one in intervals)
    assert sum(step.busy_ns for step in steps) == busy_ns
    assert sum(terms_of(step.work).tokens for step in steps) == sum(
        one.tokens_scheduled for one in intervals
    )


def edited(path: Path, old: bytes, new: bytes) -> None:
    recorded_run(MIX, path)
    path.write_bytes(path.read_bytes().replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"rentroll.steps.1", b"rentroll.steps.9", "format is 'rentroll.steps.9'"),
        (b'"weight_bytes":', b'"weight_bytes":-', "weight_bytes must be >= 1"),
        (b'{"format"', b'{"formal"', "no recording of an engine's steps"),
        (b'["started",', b'["startled",', ":2: .* is no report"),
        (b'["started",', b'["started":', ":2: JSON is malformed"),
    ],
)
def test_changed_recording_is_refused_by_file_and_line(
    tmp_path: Path, old: bytes, new: bytes, said: str
) -> None:
    path = tmp_path / "engine.steps.jsonl"
    edited(path, old, new)
    with pytest.raises(InputFileError, match=said):
        list(replay(path, DEFAULT))


def test_recording_without_a_request_does_not_add_up(tmp_path: Path) -> None:
    path = tmp_path / "engine.steps.jsonl"
    recorded_run(MIX, path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if not line.startswith(b'["add"')))
    with pytest.raises(ConservationError, match="was not added"):
        list(replay(path, DEFAULT))


def test_model_of_a_version_that_does_not_ship_is_refused() -> None:
    assert model_of_version("fixed_marginal.1").name == "fixed_marginal.1"
    with pytest.raises(SettingsError, match=r"fixed_marginal\.9"):
        model_of_version("fixed_marginal.9")
