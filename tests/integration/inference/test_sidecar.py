"""The sidecar on real spools and a real outbox, also when it is killed and started again."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from inference.sidecar import FOLDER_OF, Sidecar
from inference.spool import Spool, encode_frame, segment_path
from inference.wire import Record
from schemas.clock import SystemClock
from schemas.errors import SpoolError
from schemas.usage import UsageLost
from tests.support.host_history import HostHistory
from tests.support.host_spools import (
    assert_whole_story,
    drain,
    outbox_events,
    settings_for,
    write_history,
)
from tests.support.source import ROOT

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("kills", [0, 2])
def test_spools_of_a_host_become_one_story(tmp_path: Path, kills: int) -> None:
    settings = settings_for(tmp_path)
    history = HostHistory(11, requests=80)
    history.play(kills=kills)
    for _ in write_history(history, settings):
        pass
    drain(settings)
    assert_whole_story(history, settings)
    for folder in FOLDER_OF.values():
        assert list((settings.host_folder / folder).iterdir()) == []


def test_sidecar_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    history = HostHistory(5, requests=150)
    history.play(kills=1)
    dice = random.Random(3)
    environment = os.environ | {
        f"RENTROLL_INFERENCE_{name.upper()}": str(value)
        for name, value in settings.model_dump().items()
        if name in settings.model_fields_set
    }
    writing = write_history(history, settings)
    rest = len(history.written)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.sidecar_process"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"merging\n"
        for _ in range(len(history.written) // 6):
            next(writing, None)
        process.stdout.close()
        threading.Event().wait(dice.random() / 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
    for _ in writing:
        rest -= 1
    drain(settings)
    assert_whole_story(history, settings)


def test_second_sidecar_of_a_host_is_refused(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    first = Sidecar(settings, SystemClock())
    with pytest.raises(SpoolError, match="has a living sidecar already"):
        Sidecar(settings, SystemClock())
    first.close()


def test_sidecar_goes_on_as_the_same_source_until_it_is_closed(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    sources = []
    for drained in (False, True, False):
        sidecar = Sidecar(settings, SystemClock())
        sources.append(sidecar.identity.source)
        if drained:
            sidecar.close_source()
        sidecar.close()
    assert sources[0] == sources[1] != sources[2]


def test_damaged_frame_is_declared_lost_with_its_place(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    folder = settings.host_folder / FOLDER_OF["door"] / "a-door"
    Spool(folder, settings).close()
    torn = encode_frame(Record("door.mark", "x", "-", b"{}"))[:-9]
    segment_path(folder, 0).write_bytes(torn)
    drain(settings)
    lost = [event for _, event in outbox_events(settings) if isinstance(event, UsageLost)]
    assert [event.data.reason for event in lost] == ["spool.torn_tail"]
