"""No float touches money, tokens or GPU time: not as a number, a type, or a division."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.source import ROOT, files_below, parse, show

EXACT = (
    "schemas/*.py",
    "billing/**/*.py",
    "inference/**/*attribution*.py",
    "inference/**/*meter*.py",
    "inference/**/*interval*.py",
    "inference/**/emitted.py",
    "inference/wire.py",
    "streams/**/*roll*up*.py",
    "streams/**/*clos*.py",
    "streams/**/*completeness*.py",
    "streams/**/*digest*.py",
    "streams/**/*totals*.py",
)
"""Where something is counted, split, summed, priced or compared."""
PATHS = re.compile(r"(path|file|folder|dir|home|root|here|parent|name)s?$", re.IGNORECASE)
DURATION = re.compile(r"_s$|^timeout$|^seconds$|^_?(sleep|monotonic)$", re.IGNORECASE)
"""Seconds that somebody waits; they decide about no amount."""
REMEDY = "use integers, Decimal or Fraction; a wait in seconds ends its name in `_s`"


def exact_files() -> list[Path]:
    chosen = {path for pattern in EXACT for path in ROOT.glob(pattern)}
    return sorted(path for path in chosen if path in set(files_below(ROOT)))


def name_of(node: ast.AST | None) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            return name
        case ast.keyword(arg=str(name)):
            return name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name
        case ast.Call(func=function):
            return name_of(function)
        case _:
            return ""


def is_path(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=str()) | ast.JoinedStr():
            return True
        case ast.BinOp(left=left, op=ast.Div()):
            return is_path(left)
        case _:
            pass
    return bool(PATHS.search(name_of(node))) or name_of(node) in {"Path", "Fraction"}


def waits(node: ast.AST) -> Iterator[ast.AST]:
    """Below `node`, everything that belongs to a duration in seconds."""
    match node:
        case ast.AnnAssign(target=named) | ast.Assign(targets=[named]):
            if DURATION.search(name_of(named)):
                yield from ast.walk(node)
        case ast.keyword() | ast.Call():
            if DURATION.search(name_of(node)):
                yield from ast.walk(node)
        case ast.arg(annotation=ast.AST() as annotation):
            if DURATION.search(name_of(node)):
                yield from ast.walk(annotation)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from waits_of_function(node)
        case _:
            pass


def waits_of_function(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """Defaults of arguments that are durations, and the type of a function that returns one."""
    named = function.args
    positional = [*named.posonlyargs, *named.args][-len(named.defaults) :]
    pairs = [*zip(positional, named.defaults, strict=False)]
    pairs += [
        (argument, default)
        for argument, default in zip(named.kwonlyargs, named.kw_defaults, strict=True)
        if default is not None
    ]
    for argument, default in pairs:
        if DURATION.search(argument.arg):
            yield from ast.walk(default)
    if DURATION.search(function.name) and function.returns is not None:
        yield from ast.walk(function.returns)


def floats_in(tree: ast.AST) -> list[int]:
    """Lines on which a float is written, named, or made by a division."""
    allowed = {id(child) for node in ast.walk(tree) for child in waits(node)}
    found = []
    for node in ast.walk(tree):
        if id(node) in allowed:
            continue
        match node:
            case ast.Constant(value=float()) | ast.Name(id="float"):
                found.append(node.lineno)
            case ast.Attribute(attr="float16" | "float32" | "float64"):
                found.append(node.lineno)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                if not is_path(left) and not is_path(right):
                    found.append(node.lineno)
            case ast.AugAssign(op=ast.Div()):
                found.append(node.lineno)
            case _:
                pass
    return sorted(found)


@pytest.mark.parametrize("path", exact_files(), ids=show)
def test_no_float_near_money_tokens_or_gpu_time(path: Path) -> None:
    found = [f"{show(path)}:{line}" for line in floats_in(parse(path))]
    assert not found, f"{REMEDY}: {found}"


@pytest.mark.parametrize(
    "planted",
    [
        "amount = 0.1",
        "amount = float(tokens)",
        "def rate(price: float) -> int: ...",
        "share_ns = step_ns / requests",
        "total /= 2",
        "column = pa.float64()",
        "def rate(tokens, price=0.5): ...",
        "def rate(*, price=0.5): ...",
    ],
)
def test_planted_float_is_found(planted: str) -> None:
    assert floats_in(ast.parse(planted)) == [1]


@pytest.mark.parametrize(
    "harmless",
    [
        "timeout_s: float = 0.5",
        "POLL_S = 0.25",
        "wait(timeout=0.5)",
        "time.sleep(0.1)",
        "self._sleep(full_s * (0.5 + jitter / 2))",
        "def pace(monotonic: Callable[[], float]) -> None: ...",
        "def wait(timeout_s: float = 1.5, *, pause_s: float = 0.1) -> None: ...",
        "def elapsed_s() -> float: ...",
        "book = folder / name",
        "book = Path(name) / 'books' / name",
        "share = Fraction(1, 3) / 2",
        "share = total // 2",
    ],
)
def test_seconds_and_paths_raise_no_false_alarm(harmless: str) -> None:
    assert floats_in(ast.parse(harmless)) == []


def test_the_rule_covers_the_files_that_count() -> None:
    covered = {show(path) for path in exact_files()}
    assert {"schemas/money.py", "schemas/apportion.py", "schemas/fleet.py"} <= covered
