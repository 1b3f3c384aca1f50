"""The glossary in `schemas/README.md` knows every public class, table, column and meter."""

import inspect
import pkgutil
import re
from importlib import import_module

import schemas
from schemas.tables import TABLES
from schemas.usage import METERS
from tests.support.source import ROOT

README = ROOT / "schemas/README.md"
PAYLOADS = "Data"
"""A class such as `UsageLostData` is the payload of `UsageLost`, which is the term."""
DERIVED = {"reserved_gpu_ns"}
"""Meters without a column: a reservation is measured when it is billed."""


def glossary(text: str) -> list[tuple[str, set[str]]]:
    """Each term with the identifiers that carry it."""
    table = text.split("\n## Glossary\n", 1)[1]
    rows = re.findall(r"^\| (.+?) \|(.*?)\| (.+) \|$", table, re.MULTILINE)
    return [(term, set(re.findall(r"`([^`]+)`", code))) for term, code, _ in rows[1:]]


def public_classes() -> set[str]:
    modules = [
        import_module(f"schemas.{found.name}")
        for found in pkgutil.iter_modules(schemas.__path__)
        if found.name != "errors"
    ]
    return {
        name
        for module in modules
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
        and not name.endswith(PAYLOADS)
    }


def columns_and_tables() -> set[str]:
    return {table.name for table in TABLES} | {
        column.name for table in TABLES for column in table.columns
    }


def missing_and_gone(text: str) -> tuple[set[str], set[str]]:
    """What the glossary must know and does not, and what it names that is not there any more."""
    known = set[str]().union(*(code for _, code in glossary(text)))
    expected = public_classes() | columns_and_tables() | (set(METERS) - DERIVED)
    return expected - known, known - expected


def test_glossary_knows_every_class_table_column_and_meter() -> None:
    missing, gone = missing_and_gone(README.read_text(encoding="utf-8"))
    assert not missing, f"give them a row in the glossary of schemas/README.md: {sorted(missing)}"
    assert not gone, f"the glossary names what is gone: {sorted(gone)}"


def test_glossary_is_sorted_and_says_each_term_once() -> None:
    terms = [term.casefold() for term, _ in glossary(README.read_text(encoding="utf-8"))]
    assert len(terms) > 50
    assert terms == sorted(set(terms))


def test_planted_gap_and_leftover_are_found() -> None:
    text = README.read_text(encoding="utf-8")
    missing, gone = missing_and_gone(text.replace("`stall_ns`", "`stalled_ns`"))
    assert (missing, gone) == ({"stall_ns"}, {"stalled_ns"})
