"""Finds the project's own files, for the tests in `tests/repo` that read them."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "streams", "inference", "billing", "infra", "rentroll")
NOT_OURS = {
    *(".git", ".venv", ".rentroll", ".hypothesis", ".mypy_cache", ".pytest_cache"),
    *(".ruff_cache", ".import_linter_cache", "__pycache__", "dist", "build", "mutants", "htmlcov"),
}
"""Folders that tools write into."""
WRITTEN_BY_TOOLS = (".coverage", ".settings.md", "rentroll.egg-info")


def files_below(folder: Path) -> Iterator[Path]:
    """Every file of the project below `folder`, in order."""
    for path in sorted(folder.iterdir()):
        if path.name in NOT_OURS or path.name.startswith(WRITTEN_BY_TOOLS):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from files_below(path)
        elif path.is_file():
            yield path


def show(path: Path) -> str:
    """A path as people write it, from the root of the repository."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


def product_files() -> list[Path]:
    """The Python files that are installed."""
    found = [path for package in PACKAGES for path in files_below(ROOT / package)]
    return [path for path in found if path.suffix == ".py"]


def python_files() -> list[Path]:
    """The Python files of product, tests and benchmarks."""
    rest = [path for folder in ("tests", "bench") for path in files_below(ROOT / folder)]
    return product_files() + [path for path in rest if path.suffix == ".py"]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in a file, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
