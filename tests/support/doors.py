"""A door with keys of its own and an app behind it, and the records that it wrote."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from inference.door_keys import DoorKey, DoorTenant, KeySnapshot, write_snapshot
from inference.door_ledger import DOORS_FOLDER
from inference.door_records import DOOR_CLOSE, DOOR_OPEN, DoorClose, DoorOpen
from inference.doorkeeper import Doorkeeper, open_door
from inference.settings import InferenceSettings
from inference.spool import Damage, Position, read_spool
from inference.wire import Record
from infra.api_keys import ENTROPY_BYTES, PresentedKey, new_key, secret_hash
from schemas.clock import FixedClock, SystemClock
from schemas.units import NS_PER_MS

ALL_RECORDS = 10_000_000
NOW_NS = 1_790_000_000_000_000_000
NOW_MS = NOW_NS // NS_PER_MS


def presented(seed: int) -> PresentedKey:
    return new_key(bytes([seed]) * ENTROPY_BYTES)


def bearer(seed: int) -> str:
    return f"Bearer {presented(seed).text()}"


def door_key(seed: int = 1, **changes: Any) -> DoorKey:
    """The key that `bearer(seed)` shows: acme's, for inference in standard."""
    usual: dict[str, Any] = {
        "key_id": presented(seed).key_id,
        "secret_hash": secret_hash(presented(seed)),
        "tenant": "acme",
        "project": "chatbot",
        "scopes": ("inference",),
        "service_tiers": ("standard",),
    }
    return DoorKey(**usual | changes)


def door_tenant(tenant: str = "acme", **changes: Any) -> DoorTenant:
    return DoorTenant(tenant=tenant, tenant_key=f"{len(tenant):02x}" * 32, **changes)


def snapshot(
    keys: Sequence[DoorKey], tenants: Sequence[DoorTenant] = (), *, at_ms: int = NOW_MS
) -> KeySnapshot:
    """Keys, and their tenants unless some are given."""
    names = sorted({key.tenant for key in keys})
    known = tuple(tenants) or tuple(map(door_tenant, names))
    return KeySnapshot(written_at_ms=at_ms, keys=tuple(keys), tenants=known)


def door_settings(folder: Path, **changes: Any) -> InferenceSettings:
    usual = {"host_folder": folder, "door_keys_file": folder / "keys.json"}
    return InferenceSettings(**usual | changes)


def fixed_door(folder: Path, content: KeySnapshot, **changes: Any) -> Doorkeeper:
    """A door whose clock stands at `NOW_NS`."""
    settings = door_settings(folder, **changes)
    write_snapshot(settings.door_keys_file, content)
    return open_door(settings, FixedClock(NOW_NS))


def living_door(folder: Path, content: KeySnapshot, **changes: Any) -> Doorkeeper:
    """A door with the host's clock and a fresh snapshot."""
    settings = door_settings(folder, **changes)
    now_ms = SystemClock().now_ns() // NS_PER_MS
    fresh = msgspec.structs.replace(content, written_at_ms=now_ms)
    write_snapshot(settings.door_keys_file, fresh)
    return open_door(settings, SystemClock())


def records(folder: Path) -> Iterator[Record]:
    """Everything that all doors of a host wrote, door by door."""
    for spool in sorted((folder / DOORS_FOLDER).iterdir()):
        found, _ = read_spool(spool, Position(0, 0), ALL_RECORDS)
        for item in found:
            assert not isinstance(item, Damage)
            yield item


@dataclass(frozen=True)
class Written:
    """What the doors wrote about requests."""

    opened: list[DoorOpen]
    closed: list[DoorClose]

    def pairs(self) -> list[tuple[DoorOpen, DoorClose]]:
        """Each request's two records; there are exactly two of each."""
        closed = {one.id: one for one in self.closed}
        assert len(closed) == len(self.closed) == len(self.opened)
        assert {one.id for one in self.opened} == closed.keys()
        return [(one, closed[one.id]) for one in self.opened]

    def only(self) -> tuple[DoorOpen, DoorClose]:
        (pair,) = self.pairs()
        return pair


def written(folder: Path) -> Written:
    opened, closed = [], []
    for record in records(folder):
        if record.kind == DOOR_OPEN:
            opened.append(msgspec.json.decode(record.data, type=DoorOpen))
            assert record.id == opened[-1].id
        elif record.kind == DOOR_CLOSE:
            closed.append(msgspec.json.decode(record.data, type=DoorClose))
            assert record.id == closed[-1].id
    return Written(opened, closed)
