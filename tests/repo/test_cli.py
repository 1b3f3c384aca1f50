"""Every command explains itself: help with an example, and help on each of its options."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer
from typer.main import get_command

from rentroll.cli import COMMAND_MODULES

Command = Any
"""Typer brings its own click, so its classes are told apart by what they have."""


def whole_app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    for module in COMMAND_MODULES:
        import_module(module).register(app)
    return app


def commands_below(command: Command, words: tuple[str, ...]) -> Iterator[tuple[str, Command]]:
    """Every command that does something, with the words that call it."""
    below: dict[str, Command] | None = getattr(command, "commands", None)
    if below is None:
        yield " ".join(words), command
        return
    if getattr(command, "invoke_without_command", False):
        yield " ".join(words), command
    for name, inner in below.items():
        yield from commands_below(inner, (*words, name))


def commands_of(app: typer.Typer) -> dict[str, Command]:
    return dict(commands_below(get_command(app), ("rentroll",)))


def help_faults(words: str, command: Command) -> list[str]:
    text = (command.help or "") + "\n" + (command.epilog or "")
    faults = []
    if not (command.help or "").strip():
        faults.append(f"`{words}` has no help: give its function a docstring")
    if words not in text:
        faults.append(f"`{words} --help` shows no example that begins with `{words}`")
    silent = [one.name for one in command.params if not getattr(one, "help", None)]
    return faults + [f"`{words}`: {name} has no help" for name in silent if name != "help"]


def test_every_command_has_help_with_an_example() -> None:
    faults = [
        fault
        for words, command in commands_of(whole_app()).items()
        for fault in help_faults(words, command)
    ]
    assert faults == []


def test_planted_silent_command_is_found() -> None:
    app = typer.Typer()
    app.callback()(lambda: None)

    @app.command()
    def silent(period: str) -> None: ...

    @app.command()
    def spoken(period: str = typer.Option(..., help="a month")) -> None:
        """Do it.

        Example: rentroll spoken --period 2026-10
        """

    found = commands_of(app)
    assert len(help_faults("rentroll silent", found["rentroll silent"])) == 3
    assert help_faults("rentroll spoken", found["rentroll spoken"]) == []


@pytest.mark.parametrize("module", COMMAND_MODULES)
def test_area_has_a_way_to_register_its_commands(module: str) -> None:
    assert callable(import_module(module).register)
