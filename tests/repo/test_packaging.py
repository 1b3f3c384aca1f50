"""What is installed: packages that are ours alone, pinned dependencies, contracts in the wheel."""

import importlib.metadata
import importlib.util
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.source import PACKAGES, ROOT, files_below, show

LOCKS = ("requirements.lock", "requirements-dev.lock", "inference/vllm_cpu.lock")
UV = ROOT / ".venv/bin/uv"


def lock_faults(text: str) -> list[str]:
    faults = []
    joined = text.replace("\\\n", " ")
    for line in joined.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line.lstrip().startswith("-") or "://" in line:
            faults.append(f"{line.strip()[:60]!r}: names an index or an address")
        elif "==" not in line or "--hash=sha256:" not in line:
            faults.append(f"{line.split()[0]}: is not pinned by version and hash")
    return faults


def uncommented_dependencies(text: str) -> list[str]:
    """Dependencies in a pyproject.toml whose line gives no reason."""
    project = tomllib.loads(text)
    groups = [
        project["project"].get("dependencies", []),
        *project["project"].get("optional-dependencies", {}).values(),
        *project.get("dependency-groups", {}).values(),
    ]
    silent = []
    for dependency in (one for group in groups for one in group):
        line = next(line for line in text.splitlines() if f'"{dependency}"' in line)
        if not re.search(r"#\s*\S", line.split(f'"{dependency}"', 1)[1]):
            silent.append(dependency)
    return silent


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_provided_only_by_this_project(package: str) -> None:
    providers = set(importlib.metadata.packages_distributions().get(package, []))
    assert providers <= {"rentroll"}


@pytest.mark.parametrize("package", PACKAGES)
def test_import_finds_this_checkout(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_pins_every_version_by_hash_and_names_no_index(lock: str) -> None:
    assert lock_faults((ROOT / lock).read_text(encoding="utf-8")) == [], "run `make lock`"


def test_no_other_tools_lock_is_kept() -> None:
    others = [show(path) for path in files_below(ROOT) if path.name in {"uv.lock", "poetry.lock"}]
    assert not others, "it names the index it was made with; requirements.lock is ours"


@pytest.mark.parametrize(
    "planted",
    [
        "left-pad==1.0",
        "left-pad>=1.0 --hash=sha256:00",
        "--find-links https://mirror",
        "left-pad @ https://host/left-pad.whl --hash=sha256:00",
    ],
)
def test_planted_loose_pin_is_found(planted: str) -> None:
    assert lock_faults(f"# header\nrich==15.0 \\\n    --hash=sha256:aa\n{planted}\n")


def test_every_dependency_says_why_it_is_here() -> None:
    silent = uncommented_dependencies((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert silent == [], "put the reason in a comment on its line of pyproject.toml"


def test_planted_dependency_without_a_reason_is_found() -> None:
    text = '[project]\ndependencies = [\n  "rich>=15",  # tables\n  "left-pad>=1",\n]\n'
    assert uncommented_dependencies(text) == ["left-pad>=1"]


def test_wheel_holds_contracts_migrations_and_examples(tmp_path: Path) -> None:
    """Whoever installs Rentroll can validate, migrate and price without a checkout."""
    command = [str(UV), "build", "--wheel", "--offline", "--no-python-downloads", "-q"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        show(path)
        for package in PACKAGES
        for path in files_below(ROOT / package)
        if path.suffix in {".py", ".json", ".sql", ".yaml", ".csv", ".typ", ".xml", ".typed"}
    }
    assert sorted(expected - packed) == []
