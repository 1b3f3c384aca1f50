"""What can rot in the documentation: links, commands, decisions, landmarks of each stage."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import typer

from tests.repo.test_cli import commands_of, whole_app
from tests.support.source import ROOT, files_below, show

PAGES = [path for path in files_below(ROOT) if path.suffix == ".md"]
DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))
DECISION_LINES_MAX = 60
COMMANDS_OF_STAGE = {
    "inference": "rentroll.simulate_commands",
    "streams": "rentroll.stream_commands",
    "billing": "rentroll.billing_commands",
    "infra": "rentroll.stack_commands",
}
LANDMARKS = ("README.md", "settings.py")
FENCE = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")


def has_commands(module: str) -> bool:
    app = typer.Typer()
    import_module(module).register(app)
    return bool(app.registered_commands or app.registered_groups)


WAITING = {stage for stage, module in COMMANDS_OF_STAGE.items() if not has_commands(module)}
"""Stages that nobody can call yet; the README may already speak of them."""


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))


def unknown_commands(text: str, known: set[str], targets: set[str]) -> list[str]:
    """Commands in code blocks that begin with `make` or `rentroll` and do not exist."""
    lines = [line.strip() for block in FENCE.findall(text) for line in block.splitlines()]
    faults = []
    for line in lines:
        command = line.removeprefix("$ ")
        ours = command.startswith(("make ", "rentroll "))
        words = shlex.split(command, comments=True) if ours else []
        if words[:1] == ["make"]:
            named = [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)]
            faults += [f"make {word}" for word in named if word not in targets]
        elif words[:1] == ["rentroll"] and not any(
            " ".join(words).startswith(command) for command in known
        ):
            faults.append(line)
    return faults


def broken_links(page: Path, text: str) -> list[str]:
    return [
        target
        for target in LINK.findall(text)
        if "://" not in target
        and not (page.parent / target).exists()
        and target not in {f"{stage}/README.md" for stage in WAITING}
    ]


@pytest.mark.parametrize("page", PAGES, ids=show)
def test_commands_that_the_docs_show_exist(page: Path) -> None:
    known = set(commands_of(whole_app())) | ({"rentroll"} if WAITING else set())
    unknown = unknown_commands(page.read_text(encoding="utf-8"), known, make_targets())
    assert not unknown, f"{show(page)} shows commands that do not exist: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=show)
def test_links_lead_somewhere(page: Path) -> None:
    broken = broken_links(page, page.read_text(encoding="utf-8"))
    assert not broken, f"{show(page)} links to what is not there: {broken}"


@pytest.mark.parametrize("stage", COMMANDS_OF_STAGE)
def test_a_stage_that_can_be_called_has_its_landmarks(stage: str) -> None:
    missing = [name for name in LANDMARKS if not (ROOT / stage / name).is_file()]
    assert stage in WAITING or not missing, f"{stage}/ needs {missing}"


@pytest.mark.parametrize("decision", DECISIONS, ids=show)
def test_decision_is_one_page_and_names_the_check_that_enforces_it(decision: Path) -> None:
    text = decision.read_text(encoding="utf-8")
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", decision.name)
    assert text.count("\n") <= DECISION_LINES_MAX
    for heading in ("## Decision\n", "enforces it\n"):
        assert heading in text, heading
    checks = re.findall(r"`((?:tests|bench)/[\w/.]+)`", text.split("enforces it\n")[1])
    assert checks, "name the test that would fail"
    assert [check for check in checks if not (ROOT / check).exists()] == []


def test_every_decision_is_in_the_index_and_numbered_without_a_hole() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [path.name for path in DECISIONS if f"decisions/{path.name}" not in index] == []
    numbers = [int(path.name[:4]) for path in DECISIONS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_make_help_names_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    silent = [
        target
        for target in make_targets()
        if not re.search(rf"^{target}:.*## ", text, re.MULTILINE)
    ]
    assert not silent, f"say what they do after ##: {silent}"


def test_planted_rot_is_found() -> None:
    lines = ["```", "make lunch", "rentroll fly --now", "don't", 'make test ARGS="--a b"  # fine']
    text = "\n".join([*lines, "rentroll up -d", "```", ""])
    assert unknown_commands(text, {"rentroll up"}, {"test"}) == ["make lunch", "rentroll fly --now"]
    links = "[a](README.md#there) [b](nowhere.md) [c](https://example.com/x)"
    assert broken_links(ROOT / "README.md", links) == ["nowhere.md"]
