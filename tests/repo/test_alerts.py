"""Alarms, their runbook pages and the metrics they look at stay together."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference.sidecar_status import EngineStatus, SidecarStatus, sidecar_metrics
from streams import facts_exporter, ingest_watch
from streams.ledger_facts import FACTS
from tests.support.source import ROOT

RULES = ROOT / "infra/alerts/rentroll.rules.yml"
RUNBOOKS = ROOT / "docs/runbooks"
HEADINGS = ("## What it means", "## First look", "## Mend", "## When to escalate")
SEVERITIES = {"page", "ticket"}
METRIC = re.compile(r"\brentroll_[a-z0-9_]+")
DURATION = re.compile(r"\d+[smhd]")
OF_HISTOGRAM = ("_bucket", "_sum", "_count")


def rules_in(text: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


ALARMS = rules_in(RULES.read_text(encoding="utf-8"))


def exported() -> set[str]:
    """Every metric that some process of ours exports, by the full name that an expression uses."""
    engine = EngineStatus(engine="e", model="m", faults=0, fault="", unwritten=0)
    host = SidecarStatus(
        pid=1,
        source="s",
        state="open",
        events=0,
        unpublished_events=0,
        outbox_bytes=0,
        outbox_max_bytes=1,
        engines=(engine,),
        open_requests=0,
        living_writers=0,
        merged_unix_ms=0,
        written_unix_ms=0,
    )
    names = set(METRIC.findall(sidecar_metrics(host, 0))) | {"rentroll_door_total"}
    declared = [*ingest_watch.METRICS, *facts_exporter.METRICS]
    declared += [metric for fact in FACTS for metric in fact.metrics]
    for metric in declared:
        suffixes = OF_HISTOGRAM if metric.kind == "histogram" else ("",)
        names |= {metric.full_name + suffix for suffix in suffixes}
    return names


def faults(rule: dict[str, Any], known: set[str]) -> list[str]:
    expression = rule["expr"]
    found = [f"{name} is exported by nobody" for name in set(METRIC.findall(expression)) - known]
    if not METRIC.search(expression):
        found.append("looks at no metric of ours")
    if expression.count("(") != expression.count(")"):
        found.append("its brackets do not match")
    if rule["labels"]["severity"] not in SEVERITIES:
        found.append(f"severity is none of {sorted(SEVERITIES)}")
    if "for" in rule and not DURATION.fullmatch(rule["for"]):
        found.append(f"{rule['for']} is no duration")
    page = ROOT / rule["annotations"]["runbook"]
    if not page.is_file() or page.parent != RUNBOOKS:
        found.append(f"{page.name} is not there")
    elif not page.read_text(encoding="utf-8").startswith(f"# {rule['alert']}\n"):
        found.append(f"{page.name} is about another alarm")
    return found


@pytest.mark.parametrize("rule", ALARMS, ids=lambda rule: rule["alert"])
def test_an_alarm_looks_at_metrics_that_exist_and_has_its_page(rule: dict[str, Any]) -> None:
    assert faults(rule, exported()) == []
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert set(rule["annotations"]) == {"summary", "runbook"}


def test_alarms_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in ALARMS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
def test_a_runbook_page_belongs_to_an_alarm_and_says_all_of_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name == "README.md":
        missing = [rule["alert"] for rule in ALARMS if f"[{rule['alert']}](" not in text]
        assert not missing, f"name them in {page.name}"
        return
    pages = {Path(rule["annotations"]["runbook"]).name for rule in ALARMS}
    assert page.name in pages, "no alarm names this page"
    assert [heading for heading in HEADINGS if f"{heading}\n" not in text] == []


def test_planted_faults_in_a_rule_are_found() -> None:
    planted = {
        "alert": "Wrong",
        "expr": "rate(rentroll_nothing_total[5m] > 0",
        "for": "soon",
        "labels": {"severity": "loud"},
        "annotations": {"summary": "", "runbook": "docs/runbooks/hour-held.md"},
    }
    words = ("exported by nobody", "brackets", "severity", "no duration", "another alarm")
    found = faults(planted, exported())
    assert [word for word in words if not any(word in fault for fault in found)] == []


def test_promtool_takes_the_rules_where_it_is_installed() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        return  # the tests above hold what can be held without it
    done = subprocess.run(
        [promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
