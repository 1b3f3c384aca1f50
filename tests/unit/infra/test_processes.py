"""Processes of ours: told from strangers by their start time, and never left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.guard import guarded
from infra.local_server import LocalServer, last_lines, launch, stop, wait_until_ready
from infra.process_mark import ProcessMark, mark
from schemas.errors import ServerStartError

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


def server(folder: Path, *program: str, own_log: Path | None = None) -> LocalServer:
    command = (sys.executable, "-c", *program)
    return LocalServer("thing", "nowhere", command, folder / "log", lambda: False, own_log)


def test_mark_knows_this_process_and_its_age() -> None:
    own = mark(os.getpid())
    assert own is not None
    assert own.is_alive()
    assert own.age_s() in range(86_400)


def test_process_with_the_same_pid_that_started_at_another_time_is_left_alone() -> None:
    process = subprocess.Popen(SLEEP)
    try:
        stranger = ProcessMark(pid=process.pid, started="0/1")
        stranger.kill()
        assert not stranger.is_alive()
        assert stranger.age_s() is None
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_killed_process_is_no_longer_alive_even_before_it_is_reaped() -> None:
    process = subprocess.Popen(SLEEP)
    running = mark(process.pid)
    assert running is not None
    running.kill()
    for _ in range(100):
        if not running.is_alive():
            break
        time.sleep(0.05)
    assert not running.is_alive()
    process.wait()
    assert mark(process.pid) is None
    running.kill()


def test_guarded_command_dies_with_its_parent(tmp_path: Path) -> None:
    script = f"""
import os, subprocess, time
from infra.guard import guarded
child = subprocess.Popen(guarded({list(SLEEP)!r}))
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(1)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if mark(child) is None:
            return
        time.sleep(0.05)
    pytest.fail(f"process {child} outlived its parent")


def test_guarded_command_keeps_its_exit_status_and_arguments() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit(len(sys.argv))", "a b", "c"]
    assert subprocess.run(guarded(command), check=False).returncode == 3


def test_server_that_ends_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    broken = server(tmp_path, "print('no memory left'); raise SystemExit(4)")
    with pytest.raises(ServerStartError, match=r"thing at nowhere ended with 4(.|\n)*no memory"):
        wait_until_ready(broken, launch(broken), 30)


def test_server_that_never_serves_is_given_up_in_time(tmp_path: Path) -> None:
    silent = server(tmp_path, "import time; time.sleep(60)")
    process = launch(silent)
    try:
        with pytest.raises(ServerStartError, match=r"did not serve in 0\.3 s; it wrote no log"):
            wait_until_ready(silent, process, 0.3)
    finally:
        stop(process)
    assert process.returncode is not None


def test_server_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    stubborn = server(tmp_path, f"{program}; time.sleep(60)")
    process = launch(stubborn)
    while not last_lines(stubborn.log):
        time.sleep(0.02)
    stop(process, grace_s=0.2)
    assert process.returncode == -9


def test_lines_of_an_earlier_run_do_not_explain_this_one(tmp_path: Path) -> None:
    own_log = tmp_path / "own.log"
    own_log.write_text("the reason of last week\n")
    broken = server(tmp_path, "raise SystemExit(1)", own_log=own_log)
    with pytest.raises(ServerStartError) as failed:
        wait_until_ready(broken, launch(broken), 30)
    assert "last week" not in str(failed.value)
    assert own_log.with_name("own.log.previous").read_text() == "the reason of last week\n"


def test_only_the_last_lines_of_a_long_log_are_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert last_lines(log, 2) == ["line 99998", "line 99999"]
    assert last_lines(tmp_path / "none") == []
