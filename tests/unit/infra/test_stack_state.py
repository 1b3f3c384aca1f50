"""stack.json: what is written is read back, damage is named, readers never see half."""

import os
import stat
from pathlib import Path

import pytest

from infra.endpoints import read_stack_file
from infra.process_mark import ProcessMark
from infra.stack.state import (
    KeeperLock,
    MemberState,
    Phase,
    StackState,
    read_state,
    write_state,
)
from schemas.errors import ServerError

READY = StackState(
    endpoints={"kafka_bootstrap": "127.0.0.1:15000"},
    phase=Phase.READY,
    members=(
        MemberState(
            name="kafka",
            provided="process",
            address="127.0.0.1:15000",
            phase=Phase.READY,
            process=ProcessMark(pid=7, started="b/1"),
        ),
    ),
    ports={"kafka": 15000},
    means="process",
)


def test_written_state_is_read_back(tmp_path: Path) -> None:
    write_state(tmp_path, READY)
    assert read_state(tmp_path) == READY


def test_clients_find_the_endpoints_that_the_keeper_wrote(tmp_path: Path) -> None:
    write_state(tmp_path, READY)
    assert read_stack_file(tmp_path / "stack.json") == READY.endpoints


def test_stopped_stack_has_no_endpoints_for_clients(tmp_path: Path) -> None:
    write_state(tmp_path, StackState())
    assert read_stack_file(tmp_path / "stack.json") == {}


def test_folder_without_a_stack_reads_as_stopped(tmp_path: Path) -> None:
    assert read_state(tmp_path) == StackState(phase=Phase.STOPPED)


def test_state_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    write_state(tmp_path, READY)
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("damaged", "named"),
    [
        ('{"endpoints": {', "file"),
        ('{"phase": "asleep"}', "phase"),
        ('{"endpoints": {}, "more": 1}', "more"),
        ('{"ports": {"kafka": "many"}}', "ports.kafka"),
    ],
)
def test_damaged_state_names_the_field_and_the_remedy(
    tmp_path: Path, damaged: str, named: str
) -> None:
    (tmp_path / "stack.json").write_text(damaged)
    with pytest.raises(ServerError, match=rf"damaged \({named}.*`rentroll down` clears it"):
        read_state(tmp_path)


def test_second_keeper_does_not_get_the_lock(tmp_path: Path) -> None:
    first, second = KeeperLock(tmp_path), KeeperLock(tmp_path)
    assert first.take()
    first.sign()
    assert not second.take()
    holder = second.holder()
    assert holder is not None
    assert holder.pid == os.getpid()
    first.release()
    assert second.holder() is None
    assert second.take()
    second.release()


def test_command_that_only_clears_up_is_no_keeper(tmp_path: Path) -> None:
    lock = KeeperLock(tmp_path)
    assert lock.take()
    assert lock.holder() is None
    lock.release()


def test_lock_file_of_a_dead_keeper_names_no_holder(tmp_path: Path) -> None:
    dead = ProcessMark(pid=os.getpid(), started="another boot/1")
    (tmp_path / "keeper.lock").write_text(dead.model_dump_json())
    assert KeeperLock(tmp_path).holder() is None
