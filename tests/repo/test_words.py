"""The project speaks of itself only: no machine paths, no package index, nobody's workplace."""

import re
from pathlib import Path

import pytest

from tests.support.source import ROOT, files_below, show

FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"(?<![\w.}~-])/(?:work|root|home/\w+|Users/\w+)/"),
    "a folder beside the repository": re.compile(r"\bshared/(?:design|style|field-notes|proto)"),
    "an address of a package index": re.compile(
        r"pypi\.org|pythonhosted|--(?:extra-)?index-url|/simple/?[\"'\s]"
    ),
    "somebody's workplace": re.compile(
        r"\b(?:this|another|next|previous|last|each|my) session\b|\bworkplace\b|\bsubagents?\b"
        r"|\bthe integrator\b|\bAI[- ]generated\b|\bClaude\b|\bAnthropic\b",
        re.IGNORECASE,
    ),
    "a merge that was not finished": re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE),
}
TEXT = {
    *(".py", ".md", ".toml", ".yaml", ".yml", ".sql", ".xml", ".json", ".sh", ".cfg", ".txt"),
    *(".html", ".css", ".typ", ".jinja", ".ini", ".properties", ".lock", ""),
}
NOT_WRITTEN_BY_US = {
    *("LICENSE", "infra/stripe_fake/contract.json"),
    "inference/vllm_cpu.lock",  # names packages, such as clients of other model servers
}
BYTES_MAX = 2_000_000


def text_files() -> list[Path]:
    return [
        path
        for path in files_below(ROOT)
        if path.suffix in TEXT
        and path != Path(__file__)
        and show(path) not in NOT_WRITTEN_BY_US
        and path.stat().st_size < BYTES_MAX
    ]


def word_faults(name: str, text: str) -> list[str]:
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1} {match.group()!r} is {what}"
        for what, pattern in FORBIDDEN.items()
        for match in pattern.finditer(text)
    ]


def test_project_names_no_machine_index_or_workplace() -> None:
    faults = []
    for path in text_files():
        if path.name.endswith(".lock") or show(path) == "Makefile":
            text = path.read_text(encoding="utf-8").replace("--no-emit-index-url", "")
        else:
            text = path.read_text(encoding="utf-8")
        faults += word_faults(show(path), text)
    assert faults == []


@pytest.mark.parametrize(
    "planted",
    [
        "see /work/main/README.md",
        "open('/home/someone/trace.csv')",
        "as shared/design.md says",
        "--index-url https://mirror/simple/",
        "fetched from pypi.org",
        "done in another session",
        "this Session wrote it",
        "<<<<<<< HEAD\n",
    ],
)
def test_planted_words_are_found(planted: str) -> None:
    assert word_faults("planted", planted)


@pytest.mark.parametrize(
    "harmless",
    [
        "scope='session'",
        "autogenerate_session_id=False",
        "with Session(engine) as session:",
        "../shared/data/trace.csv",
        "the framework/ folder",
        "billing/home/index.html",
        "https://example.com/work/",
        "a checkout session of Stripe",
    ],
)
def test_ordinary_words_raise_no_false_alarm(harmless: str) -> None:
    assert word_faults("harmless", harmless) == []
