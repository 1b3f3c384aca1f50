"""What the stack does on Ctrl-C, on busy ports, and when a member cannot start."""

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.settings import InfraSettings
from infra.stack.control import running_keeper, running_stack
from infra.stack.state import Phase
from schemas.errors import ServerStartError
from tests.support.stack_runs import StackFolder, wait_for


@pytest.fixture
def stack(tmp_path: Path, kafka_bootstrap: str) -> Iterator[StackFolder]:
    """A folder whose Kafka is given, so that a start takes little time; nothing runs in it yet."""
    folder = StackFolder(tmp_path, {"RENTROLL_KAFKA_BOOTSTRAP": kafka_bootstrap})
    yield folder
    folder.rentroll("down")
    assert folder.processes() == []


def is_ready(stack: StackFolder) -> bool:
    return stack.state().phase is Phase.READY


def start_in_the_foreground(stack: StackFolder) -> "subprocess.Popen[bytes]":
    command = stack.rentroll_in_the_foreground("up")
    wait_for(lambda: is_ready(stack), "ready")
    return command


def test_given_server_is_used_as_it_is_and_never_written_down(
    stack: StackFolder, kafka_bootstrap: str
) -> None:
    assert stack.rentroll("up", "--detach").returncode == 0
    assert stack.member("kafka").provided == "url"
    assert stack.member("kafka").process is None
    assert "kafka_bootstrap" not in stack.state().endpoints
    assert not (stack.home / "kafka").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_everything_cleanly(stack: StackFolder, number: signal.Signals) -> None:
    command = start_in_the_foreground(stack)
    os.killpg(command.pid, number)
    assert command.wait(30) == 0
    assert stack.processes() == []
    assert stack.state().phase is Phase.STOPPED


def test_ctrl_c_while_it_starts_leaves_nothing_behind(stack: StackFolder) -> None:
    command = stack.rentroll_in_the_foreground("up")
    wait_for(lambda: bool(stack.state().members), "starting")
    os.killpg(command.pid, signal.SIGINT)
    command.wait(30)
    assert stack.processes() == []


def test_killed_foreground_command_takes_its_stack_along(stack: StackFolder) -> None:
    command = start_in_the_foreground(stack)
    command.kill()
    command.wait()
    wait_for(lambda: stack.processes() == [], "no process left", timeout_s=20)
    assert stack.state().phase is Phase.STOPPED


def test_down_from_another_shell_ends_the_foreground_command(stack: StackFolder) -> None:
    command = start_in_the_foreground(stack)
    assert stack.rentroll("down").returncode == 0
    assert command.wait(30) == 0


def test_of_two_commands_at_once_one_starts_the_stack_and_the_other_leaves_it_alone(
    stack: StackFolder,
) -> None:
    commands = [stack.rentroll_in_the_foreground("up", "--detach") for _ in range(2)]
    assert [command.wait(100) for command in commands] == [0, 0]
    wait_for(lambda: is_ready(stack), "ready")
    assert stack.rentroll("status").returncode == 0
    assert sum(member.restarts for member in stack.state().members) == 0


def test_kept_port_that_became_busy_is_left_alone_and_another_is_chosen(
    stack: StackFolder,
) -> None:
    assert stack.rentroll("up", "--detach").returncode == 0
    before = stack.state().ports
    assert stack.rentroll("down").returncode == 0
    with socket.create_server(("127.0.0.1", before["clickhouse"])):
        up = stack.rentroll("up", "--detach")
        assert up.returncode == 0, up.stderr
    after = stack.state().ports
    assert after["clickhouse"] != before["clickhouse"]
    assert after["stripe"] == before["stripe"]


def test_member_that_cannot_start_is_named_with_its_last_log_lines(stack: StackFolder) -> None:
    (stack.home / "clickhouse").mkdir(parents=True)
    (stack.home / "clickhouse" / "store").write_text("a file where a folder must be")
    up = stack.rentroll("up", "--detach")
    assert up.returncode == 1
    assert "server.start" in up.stderr
    assert "clickhouse at http://127.0.0.1" in up.stderr
    assert "printed.log ends with:" in up.stderr
    assert stack.processes() == []
    assert stack.state().phase is Phase.FAILED


def test_java_that_is_too_old_is_refused_with_the_three_ways_to_a_broker(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.20\" 2023-07-18' >&2\n")
    java.chmod(java.stat().st_mode | stat.S_IEXEC)
    stack = StackFolder(tmp_path, {"PATH": f"{java.parent}:{os.environ['PATH']}"})
    up = stack.rentroll("up", "--detach")
    assert up.returncode == 1
    said = " ".join(up.stderr.split())
    assert "needs Java 17 or newer" in said
    for way in ("RENTROLL_KAFKA_BOOTSTRAP", "Docker", "install Java"):
        assert way in said
    assert stack.processes() == []
    doctor = stack.rentroll("doctor")
    assert doctor.returncode == 1
    assert "install Java 17 or newer" in " ".join(doctor.stdout.split())


def test_missing_maven_is_named_with_the_three_ways_to_a_broker(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "java").symlink_to("/usr/bin/env")
    java = subprocess.run(["which", "java"], capture_output=True, text=True, check=True)
    (programs / "java").unlink()
    (programs / "java").symlink_to(java.stdout.strip())
    # Another home has no jars in its cache, and this PATH has no mvn.
    stack = StackFolder(tmp_path, {"PATH": str(programs), "HOME": str(tmp_path)})
    up = stack.rentroll("up", "--detach")
    assert up.returncode == 1
    said = " ".join(up.stderr.split())
    assert "needs Maven" in said
    assert "RENTROLL_KAFKA_BOOTSTRAP" in said
    assert stack.processes() == []


def test_library_stops_exactly_what_it_started(tmp_path: Path, kafka_bootstrap: str) -> None:
    folder = StackFolder(tmp_path)
    settings = InfraSettings(home=folder.home, kafka_bootstrap=kafka_bootstrap, compose=False)
    phases = []
    with running_stack(settings, lambda state: phases.append(state.phase)) as endpoints:
        assert endpoints.kafka_bootstrap == kafka_bootstrap
        assert running_keeper(settings) is not None
    assert running_keeper(settings) is None
    assert folder.processes() == []
    assert phases[0] is Phase.STARTING
    assert phases[-1] is Phase.READY


def test_given_server_that_does_not_answer_is_named(tmp_path: Path, kafka_bootstrap: str) -> None:
    settings = InfraSettings(
        home=tmp_path / ".rentroll",
        kafka_bootstrap=kafka_bootstrap,
        clickhouse_url="http://somebody:secret@127.0.0.1:1",
        compose=False,
        start_timeout_s=2,
    )
    with (
        pytest.raises(ServerStartError, match="clickhouse at http") as failed,
        running_stack(settings),
    ):
        pass
    assert "secret" not in str(failed.value)


def test_damaged_stack_file_is_reported_and_down_clears_it(stack: StackFolder) -> None:
    stack.home.mkdir()
    (stack.home / "stack.json").write_text('{"phase": "rea')
    status = stack.rentroll("status")
    assert status.returncode == 1
    assert "damaged" in status.stderr
    assert stack.rentroll("down").returncode == 0
    assert "no stack ever ran" in stack.rentroll("status").stdout


def test_member_that_keeps_dying_is_given_up_and_the_others_go_on(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    environment = {
        "RENTROLL_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "RENTROLL_STACK_RESTART_ATTEMPTS": "1",
    }
    stack = StackFolder(tmp_path, environment)
    assert stack.rentroll("up", "--detach").returncode == 0
    try:
        for restarts in (1, 2):
            process = stack.member("stripe").process
            assert process is not None
            process.kill()
            wait_for(
                lambda killed=process: stack.member("stripe").process != killed,  # type: ignore[misc]
                f"kill {restarts} noticed",
            )
            wait_for(
                lambda: stack.member("stripe").phase is not Phase.STARTING, "restarted or given up"
            )
        assert stack.member("stripe").phase is Phase.FAILED
        assert stack.member("clickhouse").phase is Phase.READY
        status = stack.rentroll("status")
        assert status.returncode == 1
        assert "failed" in status.stdout
    finally:
        stack.rentroll("down")
    assert stack.processes() == []


def test_logs_show_what_a_member_wrote(stack: StackFolder) -> None:
    assert stack.rentroll("up", "--detach").returncode == 0
    logs = stack.rentroll("logs", "stripe")
    assert logs.returncode == 0
    assert "stand-in for Stripe" in logs.stdout
    assert stack.rentroll("logs", "nobody").returncode == 1
