"""`rentroll keys` against a real store, and what a door then makes of the snapshot."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from inference.door import EXPIRED, REVOKED, WRONG_KEY, Bearer, Refusal, authenticate
from inference.door_keys import KeyIndex, KeyRing
from inference.settings import InferenceSettings
from infra.api_keys import parse_key
from rentroll.key_commands import register
from schemas.clock import SystemClock
from schemas.errors import ContractError
from schemas.units import NS_PER_MS

Command = Callable[..., Result]
DAY_MS = 86_400_000


@pytest.fixture
def rentroll(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("RENTROLL_STORE_URL", store_url)
    monkeypatch.setenv("RENTROLL_INFERENCE_DOOR_KEYS_FILE", str(tmp_path / "keys" / "door.json"))
    monkeypatch.setenv("COLUMNS", "240")
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["keys", *words])

    return run


def created(rentroll: Command, *words: str) -> str:
    done = rentroll("create", "--tenant", "acme", "--project", "chatbot", *words)
    assert done.exit_code == 0, done.output
    return done.output.splitlines()[-1].strip()


def door_says(rentroll: Command, text: str, later_ms: int = 0) -> Bearer | Refusal:
    assert rentroll("export").exit_code == 0
    now_ms = SystemClock().now_ns() // NS_PER_MS
    index = KeyRing(InferenceSettings()).current(now_ms)
    assert isinstance(index, KeyIndex)
    return authenticate([f"Bearer {text}".encode()], index, now_ms + later_ms)


def test_created_key_opens_the_door_with_its_terms(rentroll: Command) -> None:
    text = created(rentroll, "--tier", "priority", "--tier", "flex", "--requests-per-minute", "9")
    bearer = door_says(rentroll, text)
    assert isinstance(bearer, Bearer)
    assert (bearer.key.tenant, bearer.key.project) == ("acme", "chatbot")
    assert bearer.key.service_tiers == ("priority", "flex")
    assert bearer.key.requests_per_minute == 9
    assert not bearer.tenant.suspended


def test_secret_is_shown_once_only(rentroll: Command) -> None:
    text = created(rentroll)
    presented = parse_key(text)
    assert presented is not None
    listed = rentroll("list")
    assert presented.key_id in listed.output
    assert presented.secret not in listed.output


def test_revoked_key_is_turned_away(rentroll: Command) -> None:
    text = created(rentroll)
    key_id = text.split("_")[1]
    done = rentroll("revoke", f"key_{key_id}", "--reason", "leaked", "--by", "ada")
    assert "is revoked, by ada: leaked" in done.output
    assert door_says(rentroll, text) == REVOKED
    assert "revoked: leaked" in rentroll("list", "--tenant", "acme").output


def test_key_ends_on_its_day(rentroll: Command) -> None:
    text = created(rentroll, "--expires-in-days", "2")
    assert isinstance(door_says(rentroll, text, DAY_MS), Bearer)
    assert door_says(rentroll, text, 2 * DAY_MS) == EXPIRED
    assert "valid to " in rentroll("list").output


def test_wrong_secret_of_a_real_key_is_an_unknown_key(rentroll: Command) -> None:
    text = created(rentroll)
    other = text[:-1] + ("A" if text[-1] != "A" else "E")
    assert door_says(rentroll, other) == WRONG_KEY


def test_suspended_tenant_is_known_to_the_door_until_resumed(rentroll: Command) -> None:
    text = created(rentroll)
    assert rentroll("suspend", "acme", "--reason", "unpaid").exit_code == 0
    bearer = door_says(rentroll, text)
    assert isinstance(bearer, Bearer)
    assert (bearer.tenant.suspended, bearer.tenant.suspend_reason) == (True, "unpaid")
    assert rentroll("resume", "acme").exit_code == 0
    bearer = door_says(rentroll, text)
    assert isinstance(bearer, Bearer)
    assert not bearer.tenant.suspended


def test_tenant_that_no_event_could_carry_is_refused(rentroll: Command) -> None:
    done = rentroll("create", "--tenant", "ac me", "--project", "chatbot")
    assert isinstance(done.exception, ContractError)
    assert "tenant: " in str(done.exception)
    assert "no API keys" in rentroll("list").output


def test_export_goes_on_until_it_is_stopped(store_url: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    command = [sys.executable, "-m", "rentroll", "keys", "export", "--every", "1"]
    command += ["--file", str(file)]
    environment = {**os.environ, "RENTROLL_STORE_URL": store_url}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        written: set[int] = set()
        end_s = time.monotonic() + 30
        while len(written) < 2 and time.monotonic() < end_s:
            time.sleep(0.1)
            if file.exists():
                written.add(json.loads(file.read_text())["written_at_ms"])
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=30)
    finally:
        running.kill()
    assert len(written) == 2
    assert running.returncode == 0
    assert "0 keys of 0 tenants" in output
