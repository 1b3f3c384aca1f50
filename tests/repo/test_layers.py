"""The import contracts of pyproject.toml hold, and a planted import that breaks them is found."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.source import PACKAGES, ROOT, imported_modules, parse, product_files, show

LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = CONFIG["tool"]["importlinter"]["contracts"]
(PURITY,) = [one for one in CONTRACTS if one["name"].startswith("Contracts and pure cores")]
TOUCHES_THE_WORLD = {*PURITY["forbidden_modules"], "os", "time", "logging", "urllib"}
SAYS_PURE = re.compile(r"\A.*\bpure\b|^Pure\b|\. Pure\b", re.MULTILINE)
"""In the first sentence of a module, or as the first word of a later one."""


PURE = [path for path in product_files() if SAYS_PURE.search(ast.get_docstring(parse(path)) or "")]


def impure_imports(tree: ast.AST) -> list[str]:
    return [
        f"line {line}: {module}"
        for module, line in imported_modules(tree)
        if module.split(".")[0] in TOUCHES_THE_WORLD
    ]


def broken_contracts(checkout: Path) -> str:
    """What import-linter says of a copy of the packages; empty if every contract is kept."""
    done = subprocess.run(
        [str(LINT_IMPORTS), "--no-cache"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copyfile(ROOT / "pyproject.toml", copy / "pyproject.toml")
    for package in PACKAGES:
        only_code = shutil.ignore_patterns("*.json", "*.sql", "*.csv", "__pycache__", "examples")
        shutil.copytree(ROOT / package, copy / package, ignore=only_code)
    return copy


@pytest.mark.parametrize("path", PURE, ids=show)
def test_a_module_that_says_it_is_pure_touches_nothing_outside(path: Path) -> None:
    found = impure_imports(parse(path))
    assert not found, f"{show(path)} says it is pure: take a value or a Clock instead of {found}"


@pytest.mark.parametrize("planted", ["import socket", "from time import time", "import os.path"])
def test_planted_impure_import_is_found(planted: str) -> None:
    assert impure_imports(ast.parse(planted))


def test_a_copy_of_the_packages_keeps_every_contract(checkout: Path) -> None:
    assert broken_contracts(checkout) == ""


@pytest.mark.parametrize(
    ("where", "planted", "broken"),
    [
        ("billing", "import streams", "Stages meet only in topics and tables BROKEN"),
        ("schemas", "import infra.settings", "Stages meet only in topics and tables BROKEN"),
        ("infra", "import rentroll.cli", "Stages meet only in topics and tables BROKEN"),
        ("schemas", "import sqlite3", "by whatever they import BROKEN"),
    ],
)
def test_planted_forbidden_import_breaks_its_contract(
    checkout: Path, where: str, planted: str, broken: str
) -> None:
    file = checkout / where / "planted.py"
    file.write_text(f'"""Planted."""\n\n{planted}\n')
    try:
        assert broken in broken_contracts(checkout)
    finally:
        file.unlink()


def test_planted_tangle_of_siblings_is_found(checkout: Path) -> None:
    first, second = checkout / "infra/planted_one.py", checkout / "infra/planted_two.py"
    first.write_text("import infra.planted_two\n")
    second.write_text("import infra.planted_one\n")
    try:
        assert "No module tangles inside a package BROKEN" in broken_contracts(checkout)
    finally:
        first.unlink()
        second.unlink()
