"""The packages are ours alone: no other distribution may provide them."""

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "streams", "inference", "billing", "infra", "rentroll")


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
