"""A source with many events is followed by another, with nothing lost or doubled on the way."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import pytest

from inference.host_source import outboxes_of
from inference.outbox import OutboxReader
from inference.settings import InferenceSettings
from inference.sidecar import Sidecar, merge_until
from infra.stop_request import StopRequest
from schemas.clock import SystemClock
from schemas.control import SourceClosed, SourceOpened
from schemas.decode import decode_event
from schemas.envelope import Envelope
from schemas.usage import RequestFinished
from tests.support.host_history import HostHistory
from tests.support.host_spools import ALL_ROWS, settings_for, write_history
from tests.support.source import ROOT

pytestmark = pytest.mark.integration
EVENTS_MAX = 50


def rolling(folder: Path) -> InferenceSettings:
    return settings_for(folder).model_copy(update={"source_max_records": EVENTS_MAX})


def live(settings: InferenceSettings, seed: int, requests: int = 60) -> HostHistory:
    """One life of a host's processes, all in their spools, and over."""
    history = HostHistory(seed, requests=requests)
    history.play(kills=1)
    for _ in write_history(history, settings):
        pass
    return history


def stories(settings: InferenceSettings) -> list[list[Envelope]]:
    """What each source has said, in order; each is whole: opened first, closed last, dense."""
    found = []
    for folder in outboxes_of(settings):
        reader = OutboxReader(folder)
        rows = reader.read(0, ALL_ROWS)
        reader.close()
        events = [decode_event(row.value) for row in rows]
        assert [row.sequence for row in rows] == list(range(1, len(rows) + 1))
        assert isinstance(events[0], SourceOpened)
        assert isinstance(events[-1], SourceClosed)
        found.append(events)
    return found


def requests_of(events: list[Envelope]) -> list[str]:
    return sorted(event.id for event in events if isinstance(event, RequestFinished))


def merge_all(settings: InferenceSettings, *, close: bool = True) -> int:
    """Merge what there is as `run_sidecar` does; how many sources were begun on the way."""
    sidecar = Sidecar(settings, SystemClock())
    stop = StopRequest()
    rolled: list[str] = []

    def on_rolled_over() -> None:
        rolled.append(sidecar.identity.source)
        stop.set()

    giving_up = threading.Timer(0 if close else 20, stop.set)
    giving_up.start()
    assert merge_until(sidecar, stop, drain_s=30, on_rolled_over=on_rolled_over)
    giving_up.cancel()
    if close:
        sidecar.close_source()
    sidecar.close()
    return len(rolled)


def test_source_with_many_events_is_followed_by_another(tmp_path: Path) -> None:
    settings = rolling(tmp_path)
    first = live(settings, 1)
    assert merge_all(settings, close=False) == 1
    second = live(settings, 2)
    merge_all(settings)
    found = [requests_of(events) for events in stories(settings)]
    assert sorted(found) == sorted([sorted(first.opened), sorted(second.opened)])


def test_source_with_few_events_goes_on(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    live(settings, 1)
    sidecar = Sidecar(settings, SystemClock())
    while sidecar.merge_round() or sidecar.living:
        pass
    assert not sidecar.roll_over()
    sidecar.close()


def test_source_is_never_changed_while_a_process_lives(tmp_path: Path) -> None:
    settings = rolling(tmp_path)
    history = HostHistory(1, requests=120)
    history.play()
    writing = write_history(history, settings)
    sidecar = Sidecar(settings, SystemClock())
    for number in writing:
        if number % 20 == 0:
            sidecar.merge_round()
            assert not sidecar.roll_over()
        if sidecar.events > 2 * EVENTS_MAX:
            break
    assert sidecar.events >= EVENTS_MAX
    sidecar.close()
    for _ in writing:
        pass


def test_kill_at_every_step_of_the_change_loses_and_doubles_nothing(tmp_path: Path) -> None:
    prepared = rolling(tmp_path / "prepared")
    first = live(prepared, 3, requests=EVENTS_MAX)
    kills = 0
    for step in count(1):
        settings = rolling(tmp_path / f"step-{step}")
        shutil.copytree(prepared.host_folder, settings.host_folder)
        environment = os.environ | settings.as_environment()
        command = [sys.executable, "-m", "tests.support.rolling_process", str(step)]
        ended = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        second = live(settings, 4, requests=10)
        merge_all(settings)
        found = [requests_of(events) for events in stories(settings) if requests_of(events)]
        told = sorted(one for requests in found for one in requests)
        assert told == sorted([*first.opened, *second.opened])
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        kills += 1
    assert kills >= 5
