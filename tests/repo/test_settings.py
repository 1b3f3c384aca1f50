"""Each stage has one frozen settings class whose fields say their unit, bound and meaning."""

from collections.abc import Iterator
from typing import Annotated, Literal, get_args, get_origin

import pytest
from annotated_types import Ge, Gt
from pydantic import Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from rentroll.settings_reference import STAGES, settings_classes, settings_reference
from tests.support.source import PACKAGES, ROOT, files_below

UNITS = {
    *("ns", "us", "ms", "s", "minutes", "hours", "days", "bytes", "kb", "mb", "gb"),
    *("events", "records", "rows", "requests", "tokens", "intervals", "gpus", "sequences", "steps"),
    *("invoices", "lines", "calls", "reasons", "candidates", "sources", "partitions", "replicas"),
    *(
        "attempts",
        "retries",
        "workers",
        "connections",
        "files",
        "batches",
        "parts",
        "inserts",
        "threads",
    ),
    *("percent", "ppm", "minor", "port", "seed"),
}
"""What the last word of a number's name may be."""
CLASSES = settings_classes()


def is_number(annotation: object) -> bool:
    if get_origin(annotation) is Literal:
        return False
    parts = get_args(annotation)
    return any(map(is_number, parts)) if parts else annotation in (int, float)


def settings_faults(settings: type[BaseSettings]) -> list[str]:
    faults = []
    if not settings.model_config.get("frozen"):
        faults.append("is not frozen")
    if not str(settings.model_config.get("env_prefix", "")).startswith("RENTROLL_"):
        faults.append("its env_prefix does not begin with RENTROLL_")
    if not settings.__doc__:
        faults.append("has no docstring")
    for name, field in settings.model_fields.items():
        faults += field_faults(name, field)
    return [f"{settings.__name__} {fault}" for fault in faults]


def field_faults(name: str, field: FieldInfo) -> Iterator[str]:
    if not field.description:
        yield f"{name}: has no description"
    if not is_number(field.annotation):
        return
    if name.rsplit("_", maxsplit=1)[-1] not in UNITS:
        yield f"{name}: ends in no unit (UNITS in tests/repo/test_settings.py)"
    if not any(isinstance(limit, Ge | Gt) for limit in field.metadata):
        yield f"{name}: has no lower bound (ge=...)"


@pytest.mark.parametrize(("stage", "settings"), CLASSES)
def test_settings_are_frozen_bounded_documented_and_say_their_unit(
    stage: str, settings: type[BaseSettings]
) -> None:
    assert stage in STAGES
    assert settings_faults(settings) == []


def test_a_stage_has_one_settings_class() -> None:
    stages = [stage for stage, _ in CLASSES]
    assert len(stages) == len(set(stages))
    assert "infra" in stages


def test_settings_are_read_in_settings_py_only() -> None:
    readers = [
        path
        for package in PACKAGES
        for path in files_below(ROOT / package)
        if path.suffix == ".py" and "(BaseSettings)" in path.read_text(encoding="utf-8")
    ]
    elsewhere = [path for path in readers if path.name != "settings.py"]
    assert not elsewhere, "move them to the stage's settings.py"


def test_no_variable_is_read_by_two_stages_with_different_meaning() -> None:
    meaning: dict[str, tuple[str, str | None]] = {}
    for stage, settings in CLASSES:
        prefix = str(settings.model_config.get("env_prefix", ""))
        for name, field in settings.model_fields.items():
            variable = (prefix + name).upper()
            first = meaning.setdefault(variable, (stage, field.description))
            assert first[1] == field.description, f"{variable} of {first[0]} and of {stage} differ"


def test_settings_tables_in_the_docs_are_current() -> None:
    written = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert written == settings_reference(CLASSES), "run `make docs` and commit docs/settings.md"


class Loose(BaseSettings):
    wait: int = 5
    batch_rows: int = Field(default=5, description="rows of a batch")


class Tight(BaseSettings):
    """Settings as they should be."""

    model_config = SettingsConfigDict(env_prefix="RENTROLL_TIGHT_", frozen=True)

    wait_s: Annotated[int, Field(ge=1)] = Field(default=5, le=60, description="a | b")
    policy: Literal["refuse", "count"] = Field(default="refuse", description="when full")
    url: str = Field(description="where")


def test_planted_loose_settings_are_found() -> None:
    faults = settings_faults(Loose)
    for words in ("frozen", "RENTROLL_", "docstring", "wait: has no description", "wait: ends in"):
        assert any(words in fault for fault in faults), words
    assert "Loose batch_rows: has no lower bound (ge=...)" in faults
    assert settings_faults(Tight) == []


def test_settings_table_shows_variable_default_bounds_and_meaning() -> None:
    text = settings_reference([("streams", Tight)])
    assert "| `RENTROLL_TIGHT_WAIT_S` | `5` | a \\| b; at least 1, at most 60 |" in text
    assert "| `RENTROLL_TIGHT_URL` | required | where |" in text
