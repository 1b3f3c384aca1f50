"""Tests keep the discipline: none is skipped or expected to fail, none patches what is ours."""

import ast

import pytest

from tests.support.source import PACKAGES, ROOT, parse, python_files, show

EXCUSES = {"skip", "skipif", "xfail", "importorskip", "skipTest"}


def excuses_in(tree: ast.AST) -> list[int]:
    """Lines on which a test excuses itself."""
    return sorted(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in EXCUSES
        and ast.unparse(node.value) in {"pytest", "pytest.mark", "unittest", "self"}
    )


def patches_in(tree: ast.AST) -> list[int]:
    """Lines on which one of our own names is replaced."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="unittest.mock") | ast.ImportFrom(module="unittest"):
                found.append(node.lineno)
            case ast.Import(names=names) if any("unittest" in alias.name for alias in names):
                found.append(node.lineno)
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="monkeypatch"), attr="setattr"),
                args=[target, *_],
            ) if ast.unparse(target).strip("'\"").split(".")[0] in PACKAGES:
                found.append(node.lineno)
            case _:
                pass
    return sorted(found)


SERVERS = ROOT / "tests/support/servers"
"""May say that a server cannot be had on this machine; `--no-skips` makes that a failure."""
TESTS = [path for path in python_files() if show(path).startswith("tests/")]


@pytest.mark.parametrize("path", TESTS, ids=show)
def test_no_test_excuses_itself_or_patches_what_is_ours(path: object) -> None:
    tree = parse(ROOT / str(path))
    excuses = [] if str(path).startswith(str(SERVERS)) else excuses_in(tree)
    assert not excuses, f"{path}:{excuses}: start the server, or move the test where it can run"
    patches = patches_in(tree)
    assert not patches, f"{path}:{patches}: pass a value, a Clock or a fake that has a contract"


@pytest.mark.parametrize(
    "planted",
    [
        "@pytest.mark.skip\ndef test_a(): ...",
        "@pytest.mark.skipif(True, reason='')\ndef test_a(): ...",
        "@pytest.mark.xfail\ndef test_a(): ...",
        "np = pytest.importorskip('numpy')",
        "def test_a():\n    pytest.skip('no server')",
    ],
)
def test_planted_excuse_is_found(planted: str) -> None:
    assert excuses_in(ast.parse(planted))


@pytest.mark.parametrize(
    "planted",
    [
        "from unittest.mock import patch",
        "import unittest.mock",
        "monkeypatch.setattr(billing.rating, 'rate', fake)",
        "monkeypatch.setattr('streams.close.publish', fake)",
    ],
)
def test_planted_patch_is_found(planted: str) -> None:
    assert patches_in(ast.parse(planted))


def test_setting_a_variable_of_the_environment_is_no_patch() -> None:
    assert not patches_in(ast.parse("monkeypatch.setenv('RENTROLL_HOME', 'x')"))
