"""Assignment and fleet files are read, or refused with the line that is wrong."""

from pathlib import Path

import pytest

from inference.simulate.assign import (
    DEFAULT_ASSIGNMENT,
    EXAMPLES,
    PrefixCache,
    cached_tokens,
    read_assignment,
)
from inference.simulate.fleet import read_fleet, workload_of_fleet
from schemas.errors import FleetFileError
from schemas.units import NS_PER_HOUR

FLEET = EXAMPLES / "fleet.yaml"


def test_default_assignment_is_five_tenants_two_models_two_tiers() -> None:
    roster = read_assignment(DEFAULT_ASSIGNMENT)
    assert len(roster.tenants()) == 5
    assert [model.name for model in roster.models] == ["llama-3.1-8b", "llama-3.3-70b"]
    assert sorted(set(roster.tiers)) == ["priority", "standard"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("region: us-east-1", "region: us east", "'us east' is not a name"),
        ("region: us-east-1", "", "'region' is missing"),
        ("region: us-east-1", "region: us-east-1\nregion: x", "stands here twice"),
        ("region: us-east-1", "region: us-east-1\ncolour: red", "'colour' is none of"),
        ("weight: 8", "weight: 0", "0 is not between 1 and 1000"),
        ("weight: 8", "weight: 1.5", "'1.5' is not a whole number"),
        ("name: globex\n", "name: acme\n", "'acme' stands here twice"),
        ("key-hooli-chat-2", "key-hooli-chat-1", "stands here twice"),
        ("replicas: 2}", "replicas: 0}", "0 is not between 1 and 64"),
        ("name: llama-3.1-8b,", "name: my-model,", "not in the catalogue"),
        ("hit_permille: 350", "hit_permille: 1001", "1001 is not between 0 and 1000"),
        ("tiers:\n", "tiers: []\nrest:\n", "'rest' is none of"),
    ],
)
def test_wrong_assignment_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    text = DEFAULT_ASSIGNMENT.read_text()
    assert old in text
    path = tmp_path / "assign.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(FleetFileError) as caught:
        read_assignment(path)
    assert problem in str(caught.value)
    line = int(str(caught.value).removeprefix(f"{path}:").split(":")[0])
    assert 1 <= line <= text.count("\n") + 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"a: [", "not YAML"),
        (b"\xff", "not UTF-8"),
        (b"- 1", "mapping is expected"),
    ],
)
def test_file_that_is_no_roster_at_all_is_refused(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "assign.yaml"
    path.write_bytes(content)
    with pytest.raises(FleetFileError, match=problem):
        read_assignment(path)
    with pytest.raises(FleetFileError, match="cannot be read"):
        read_assignment(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("start: 2026-10-01T00:00:00Z", "start: 2026-10-01T00:30:00Z", "not a whole UTC hour"),
        ("start: 2026-10-01T00:00:00Z", "start: 2026-13-01T00:00:00Z", "not a whole UTC hour"),
        ("start: 2026-10-01T00:00:00Z", "start: 1999-10-01T00:00:00Z", "outside the years"),
        ("40, 30]", "40]", "24 figures are expected, not 23"),
        ("[1, 40, 110, 200, 330, 1200]", "[1, 40, 30]", "30 is less than the quantile before"),
        ("[1, 40, 110, 200, 330, 1200]", "[7]", "at least two quantiles"),
        ("error: 5", "error: 999", "they sum to"),
    ],
)
def test_wrong_fleet_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    path = tmp_path / "fleet.yaml"
    text = FLEET.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(FleetFileError, match=problem):
        read_fleet(path)


def test_example_fleet_has_its_day_its_outcomes_and_its_bounds() -> None:
    fleet = read_fleet(FLEET)
    workload = workload_of_fleet(fleet, seed=5)
    hours = [arrival.recorded_ns // NS_PER_HOUR % 24 for arrival in workload.arrivals]
    assert hours.count(3) == 20
    assert hours.count(10) == 340
    assert {arrival.outcome for arrival in workload.arrivals} == {
        *("stop", "length", "client_gone", "error", "abort", "refused"),
    }
    assert all(8 <= arrival.context_tokens <= 14_000 for arrival in workload.arrivals)
    times = [arrival.recorded_ns for arrival in workload.arrivals]
    assert times == sorted(times)
    assert workload_of_fleet(fleet, seed=5) == workload
    assert workload_of_fleet(fleet, seed=6).arrivals != workload.arrivals


def test_prefix_cache_hits_in_whole_blocks_and_never_the_whole_prompt() -> None:
    always = PrefixCache(hit_permille=1_000, shared_permille=1_000)
    for context in range(200):
        cached = cached_tokens(always, context, 0, 999)
        assert cached % 16 == 0
        assert cached < context or cached == 0
    assert cached_tokens(always, 1_600, 0, 999) == 1_584
    assert cached_tokens(PrefixCache(0, 1_000), 1_600, 0, 999) == 0
