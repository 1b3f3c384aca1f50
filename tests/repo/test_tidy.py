"""House rules on the shape of source files: length, depth, names, their first sentence."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.source import ROOT, files_below, parse, python_files, show

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50
FOLDER_DEPTH_MAX = 3
TESTS_DEPTH_MAX = 4
"""`tests/<kind>/` and below it the folders of the code."""
VAGUE = {"manager", "managers", "helper", "helpers", "util", "utils", "misc", "processor"}
VAGUE_ALONE = {"data", "process"}
"""Of these a name may have a word, as in `process_mark`, but not consist."""

FILES = python_files()


def words_of(name: str) -> set[str]:
    """The words of a file's or a class's name: `RunManager` and `run_manager` are alike."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a body. Signature and docstring are free: nobody should save on help and types."""
    first = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - first[0].lineno + 1 if first else 0


def length_faults(path: Path, text: str) -> Iterator[str]:
    lines = text.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{show(path)} has {lines} lines, at most {FILE_LINES_MAX}: split it by what it holds"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = body_lines(node)
            if length > FUNCTION_LINES_MAX:
                yield (
                    f"{show(path)}:{node.lineno} {node.name} has {length} lines, at most"
                    f" {FUNCTION_LINES_MAX}: give its parts names"
                )


def opening_faults(path: Path, text: str) -> Iterator[str]:
    docstring = ast.get_docstring(ast.parse(text)) or ""
    first = docstring.split("\n", 1)[0]
    if not first.endswith((".", "?")):
        yield f"{show(path)}: its first line says in one sentence what it holds, with a full stop"


def name_faults(path: Path) -> Iterator[str]:
    vague = words_of(path.stem) & VAGUE or {path.stem} & VAGUE_ALONE
    if vague:
        yield f"{show(path)}: {sorted(vague)[0]!r} says nothing; name the file by a glossary noun"
    for node in ast.walk(parse(path)) if path.suffix == ".py" and path.is_file() else ():
        if isinstance(node, ast.ClassDef) and words_of(node.name) & VAGUE:
            yield f"{show(path)}:{node.lineno} {node.name}: name the class by a glossary noun"


def depth_faults(path: Path) -> Iterator[str]:
    depth = len(path.relative_to(ROOT).parts) - 1
    most = TESTS_DEPTH_MAX if show(path).startswith("tests/") else FOLDER_DEPTH_MAX
    if depth > most:
        yield f"{show(path)} lies {depth} folders deep, at most {most}"


@pytest.mark.parametrize("path", FILES, ids=show)
def test_source_file_is_short_flat_named_and_says_what_it_holds(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    faults = [*length_faults(path, text), *opening_faults(path, text)]
    assert not [*faults, *name_faults(path), *depth_faults(path)]


def test_migrations_and_other_sources_are_no_deeper() -> None:
    sources = [
        path for path in files_below(ROOT) if path.suffix in {".sql", ".xml", ".sh", ".yaml"}
    ]
    assert not [fault for path in sources for fault in depth_faults(path)]


def test_one_file_holds_no_more_than_one_can_read() -> None:
    here = ROOT / "billing/planted.py"
    assert list(length_faults(here, "x = 1\n" * 401))
    assert list(length_faults(here, "def f():\n" + "    x = 1\n" * 51))
    said = '    """Do it.\n\n    And say how.\n    """\n'
    assert list(length_faults(here, "def f():\n" + said + "    x = 1\n" * 51))
    assert not list(length_faults(here, "def f():\n" + said + "    x = 1\n" * 50))


@pytest.mark.parametrize("text", ["x = 1\n", '"""No full stop"""\n', '"""\nLater.\n"""\nx = 1\n'])
def test_planted_file_without_its_sentence_is_found(text: str) -> None:
    faults = list(opening_faults(ROOT / "billing/planted.py", text))
    assert bool(faults) == (not text.startswith('"""\n'))


@pytest.mark.parametrize("name", ["invoice_manager.py", "utils.py", "data.py", "process.py"])
def test_planted_vague_file_name_is_found(name: str) -> None:
    assert list(name_faults(ROOT / "billing" / name))


def test_planted_vague_class_name_is_found(tmp_path: Path) -> None:
    planted = tmp_path / "rating.py"
    planted.write_text("class RatingManager: ...\nclass InvoiceData: ...\n")
    (fault,) = name_faults(planted)
    assert "RatingManager" in fault


def test_planted_deep_file_is_found() -> None:
    assert list(depth_faults(ROOT / "infra/store/migrations/versions/0001.py"))
    assert not list(depth_faults(ROOT / "infra/store/migrations/0001.py"))
