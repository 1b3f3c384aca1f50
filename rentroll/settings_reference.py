"""Writes `docs/settings.md` from the settings classes: `python -m rentroll.settings_reference`."""

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from inspect import isclass

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

STAGES = ("inference", "streams", "billing", "infra")
HEAD = """# Settings

Generated from the settings classes by `make docs`; do not edit. A setting is an environment
variable. It is read once, when a command starts, and never changes while it runs.
"""


def settings_classes() -> list[tuple[str, type[BaseSettings]]]:
    """Each stage that has settings, with every settings class of its `settings.py`."""
    found = []
    for stage in STAGES:
        name = f"{stage}.settings"
        if find_spec(name) is None:
            continue
        module = import_module(name)
        found += [
            (stage, value)
            for value in vars(module).values()
            if isclass(value) and issubclass(value, BaseSettings) and value.__module__ == name
        ]
    return found


def settings_reference(classes: Sequence[tuple[str, type[BaseSettings]]]) -> str:
    """The text of `docs/settings.md`."""
    return HEAD + "".join("\n" + section for section in map(_section, classes))


def _section(entry: tuple[str, type[BaseSettings]]) -> str:
    stage, settings = entry
    prefix = settings.model_config.get("env_prefix", "")
    intro = (settings.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", "\n")
    rows = "".join(_row(prefix, name, field) for name, field in settings.model_fields.items())
    return f"## {stage}\n\n{intro}\n\n| variable | default | meaning |\n|---|---|---|\n{rows}"


def _row(prefix: str, name: str, field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        default = "required"
    else:
        default = "" if field.default is None else f"`{field.default}`"
    meaning = "; ".join(
        part for part in (field.description or "", ", ".join(sorted(_bounds(field)))) if part
    )
    return f"| `{(prefix + name).upper()}` | {default} | {_cell(meaning)} |\n"


def _bounds(field: FieldInfo) -> Iterator[str]:
    for limit in field.metadata:
        match limit:
            case Ge(ge=bound):
                yield f"at least {bound}"
            case Gt(gt=bound):
                yield f"more than {bound}"
            case Le(le=bound):
                yield f"at most {bound}"
            case Lt(lt=bound):
                yield f"less than {bound}"
            case _:
                pass


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.stdout.write(settings_reference(settings_classes()))
