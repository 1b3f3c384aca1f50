"""What a sidecar says about itself, in one small file that is replaced whole.

`<host folder>/sidecar.json` is how a supervisor learns that the source is registered and later
closed, and how a person or a monitor sees that merging and publishing go on.
"""

from pathlib import Path
from typing import Literal

import msgspec

from schemas.errors import SpoolError

STATUS_FILE = "sidecar.json"
State = Literal["open", "draining", "closed", "left open"]
"""`closed`: nothing follows. `left open`: it ended, the next sidecar goes on with the source."""


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A living engine, by its last mark.

    From its first fault on its intervals do not close, until it is started anew. `unwritten`
    records wait in its memory because the disk refuses them.
    """

    engine: str
    model: str
    faults: int
    fault: str
    unwritten: int


class SidecarStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a sidecar; counts are of its source since it was opened.

    `rebuilds` counts producers that the watchdog threw away, and `resent` the records that were
    therefore sent again, since this sidecar started. `outbox_max_bytes` is the outbox's bound.
    """

    pid: int
    source: str
    state: State
    events: int
    unpublished_events: int
    outbox_bytes: int
    outbox_max_bytes: int
    rebuilds: int = 0
    resent: int = 0
    engines: tuple[EngineStatus, ...] = ()
    open_requests: int
    living_writers: int
    merged_unix_ms: int
    written_unix_ms: int


def write_status(host_folder: Path, status: SidecarStatus) -> None:
    """Replace the file.

    Raises:
        SpoolError: If the disk refuses.
    """
    path = host_folder / STATUS_FILE
    fresh = path.with_suffix(".json.new")
    try:
        fresh.write_bytes(msgspec.json.encode(status))
        fresh.replace(path)
    except OSError as error:
        raise SpoolError(f"{path}: {error}") from error


def read_status(host_folder: Path) -> SidecarStatus | None:
    """The last look; None where no sidecar ever ran, or what is there is not one."""
    try:
        return msgspec.json.decode((host_folder / STATUS_FILE).read_bytes(), type=SidecarStatus)
    except (OSError, msgspec.DecodeError):
        return None


def sidecar_metrics(status: SidecarStatus | None, now_ms: int) -> str:
    """A host's metering in the text format of Prometheus; empty where no sidecar ever ran.

    `rentroll_sidecar_lag_ms` grows while the sidecar is dead, stuck, or does not keep up.
    """
    if status is None:
        return ""
    source = [("source", status.source)]
    lines = [
        *_metric("sidecar_lag_ms", "gauge", [(source, max(now_ms - status.merged_unix_ms, 0))]),
        *_metric("sidecar_open_requests", "gauge", [(source, status.open_requests)]),
        *_metric("sidecar_events_total", "counter", [(source, status.events)]),
        *_metric(
            "sidecar_published_total",
            "counter",
            [(source, status.events - status.unpublished_events)],
        ),
        *_metric("sidecar_outbox_events", "gauge", [(source, status.unpublished_events)]),
        *_metric("sidecar_outbox_bytes", "gauge", [(source, status.outbox_bytes)]),
        *_metric("sidecar_outbox_max_bytes", "gauge", [(source, status.outbox_max_bytes)]),
        *_metric("sidecar_producer_rebuilds_total", "counter", [(source, status.rebuilds)]),
        *_metric("sidecar_resent_total", "counter", [(source, status.resent)]),
    ]
    engines = [([("engine", one.engine), ("model", one.model)], one) for one in status.engines]
    lines += _metric("engine_faults_total", "counter", [(at, one.faults) for at, one in engines])
    lines += _metric(
        "engine_unwritten_records", "gauge", [(at, one.unwritten) for at, one in engines]
    )
    lines += _metric(
        "engine_intervals_close", "gauge", [(at, int(not one.faults)) for at, one in engines]
    )
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, samples: list[tuple[list[tuple[str, str]], int]]) -> list[str]:
    if not samples:
        return []
    lines = [f"# TYPE rentroll_{name} {kind}"]
    for labels, number in samples:
        told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
        lines.append(f"rentroll_{name}{{{told}}} {number}")
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
