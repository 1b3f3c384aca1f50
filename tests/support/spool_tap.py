"""Keeps what a host's doors and engines write, although its sidecar deletes what it has read."""

import os
import threading
from pathlib import Path

import msgspec

from inference.door_records import DOOR_CLOSE, DOOR_OPEN, DoorClose, DoorOpen
from inference.engine_records import (
    ENGINE_BOOT,
    ENGINE_PART,
    ENGINE_STOP,
    EngineBoot,
    PartRecord,
)
from inference.merge import Kind
from inference.sidecar import FOLDER_OF
from inference.spool import SEGMENT_SUFFIX, Damage, Position, read_spool
from inference.wire import Record
from tests.support.engine_frames import unpacked
from tests.support.served_story import Witness

ALL_RECORDS = 10_000_000
_LOOK_S = 0.02


class _Process(msgspec.Struct):
    """What the boot records of doors and engines have in common."""

    pid: int


class SpoolTap:
    """Gives each segment a second name as soon as it is there; what is appended is under both."""

    def __init__(self, host: Path, kept: Path) -> None:
        self._host = host
        self._kept = kept
        self._missed: list[str] = []
        self._stop = threading.Event()
        self._looking = threading.Thread(target=self._look_often, name="tap", daemon=True)
        self._looking.start()

    def close(self) -> None:
        self._stop.set()
        self._looking.join()

    def pids(self, kind: Kind) -> dict[str, int]:
        """Processes that ever wrote, living or dead: their ids and pids."""
        found = {}
        for folder in self._folders(self._kept, kind):
            items, _ = read_spool(folder, Position(0, 0), 1)
            if items and not isinstance(items[0], Damage):
                found[folder.name] = msgspec.json.decode(items[0].data, type=_Process).pid
        return found

    def witness(self) -> Witness:
        """Everything that was written; call it once nobody writes any more."""
        witness = Witness(damaged=list(self._missed))
        for folder in self._folders(self._kept, "door"):
            for record in self._records(folder, witness):
                _hear_door(witness, folder.name, record)
        for folder in self._folders(self._kept, "engine"):
            for record in self._records(folder, witness):
                _hear_engine(witness, record)
        return witness

    def _records(self, folder: Path, witness: Witness) -> list[Record]:
        items, _ = read_spool(folder, Position(0, 0), ALL_RECORDS)
        witness.damaged += [f"{folder.name} {one}" for one in items if isinstance(one, Damage)]
        whole = [one for one in items if not isinstance(one, Damage)]
        return [record for frame in whole for record in unpacked(frame)]

    @staticmethod
    def _folders(root: Path, kind: Kind) -> list[Path]:
        folder = root / FOLDER_OF[kind]
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _look_often(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self._look()
        self._look()

    def _look(self) -> None:
        for kind in FOLDER_OF:
            for folder in self._folders(self._host, kind):
                kept = self._kept / FOLDER_OF[kind] / folder.name
                for segment in folder.glob(f"*{SEGMENT_SUFFIX}"):
                    kept.mkdir(parents=True, exist_ok=True)
                    try:
                        os.link(segment, kept / segment.name)
                    except FileExistsError:
                        continue
                    except FileNotFoundError:
                        self._missed.append(f"{folder.name}/{segment.name} was gone too soon")


def _hear_door(witness: Witness, door: str, record: Record) -> None:
    if record.kind == DOOR_OPEN:
        opened = msgspec.json.decode(record.data, type=DoorOpen)
        witness.opened[opened.id] = opened
        witness.door_of[opened.id] = door
    elif record.kind == DOOR_CLOSE:
        closed = msgspec.json.decode(record.data, type=DoorClose)
        witness.closed[closed.id] = closed


def _hear_engine(witness: Witness, record: Record) -> None:
    if record.kind == ENGINE_BOOT:
        boot = msgspec.json.decode(record.data, type=EngineBoot)
        witness.boots[boot.engine] = boot
    elif record.kind == ENGINE_PART:
        part = msgspec.json.decode(record.data, type=PartRecord)
        witness.parts[part.engine, part.part.ordinal] = part
    elif record.kind == ENGINE_STOP:
        witness.stopped.add(record.id)
