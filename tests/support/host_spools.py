"""Writes a host's history into real spools, and reads back what its sidecar made of it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from inference.emitted_totals import emitted_totals
from inference.host_source import OUTBOXES_FOLDER
from inference.outbox import OutboxReader
from inference.settings import InferenceSettings
from inference.sidecar import FOLDER_OF, Sidecar, merge_until
from inference.spool import Spool
from infra.signing import range_is_signed
from infra.stop_request import StopRequest
from schemas.clock import SystemClock
from schemas.control import SourceClosed, SourceOpened
from schemas.decode import decode_event
from schemas.envelope import Envelope
from schemas.fleet import EngineInterval, RangePurpose, SignedRange
from schemas.ids import content_hash, range_sha256
from schemas.usage import TOKEN_METERS, RequestFinished
from tests.support.host_history import HostHistory

ALL_ROWS = 1_000_000


def write_history(history: HostHistory, settings: InferenceSettings) -> Iterator[int]:
    """Write record by record in the order of time, yielding the count; then all writers die."""
    spools: dict[str, Spool] = {}
    for number, one in enumerate(history.written):
        if one.process not in spools:
            kind = FOLDER_OF["engine" if one.process in history.engines else "door"]
            spools[one.process] = Spool(settings.host_folder / kind / one.process, settings)
        spools[one.process].append([one.record])
        yield number
    for spool in spools.values():
        spool.close()


def drain(settings: InferenceSettings) -> None:
    """Let a sidecar read all of it to the end, and close its source."""
    sidecar = Sidecar(settings, SystemClock())
    stop = StopRequest()
    stop.set()
    assert merge_until(sidecar, stop, drain_s=30)
    sidecar.close_source()
    sidecar.close()


def outbox_events(settings: InferenceSettings) -> list[tuple[bytes, Envelope]]:
    """Everything in the host's one outbox, in order, each held to its contract."""
    (folder,) = (settings.host_folder / OUTBOXES_FOLDER).iterdir()
    reader = OutboxReader(folder)
    rows = reader.read(0, ALL_ROWS)
    reader.close()
    assert [row.sequence for row in rows] == list(range(1, len(rows) + 1))
    return [(row.value, decode_event(row.value)) for row in rows]


def assert_whole_story(history: HostHistory, settings: InferenceSettings) -> None:
    """One event per request, every range signed, the source opened and closed."""
    events = outbox_events(settings)
    finished = Counter(event.id for _, event in events if isinstance(event, RequestFinished))
    assert finished == Counter(list(history.opened))
    assert_totals_are_of(settings, events)
    first, last = events[0][1], events[-1][1]
    assert isinstance(first, SourceOpened)
    assert isinstance(last, SourceClosed)
    key, source = first.data.public_key, first.source
    hashes = [content_hash(value) for value, _ in events]
    ranges: list[tuple[RangePurpose, SignedRange]] = [
        ("interval", event.data.range) for _, event in events if isinstance(event, EngineInterval)
    ]
    ranges.append(("closed", last.data.range))
    assert ranges[0][1].sequence_first == 1
    for (_, before), (_, after) in pairwise(ranges):
        assert after.sequence_first == before.sequence_last + 1
    for purpose, signed in ranges:
        covered = hashes[signed.sequence_first - 1 : signed.sequence_last]
        assert signed.sha256 == range_sha256(covered)
        assert range_is_signed(key, source, purpose, signed)


def assert_totals_are_of(
    settings: InferenceSettings, events: Sequence[tuple[bytes, Envelope]]
) -> None:
    """What the sidecar says that it emitted is what is in its outbox."""
    (folder,) = (settings.host_folder / OUTBOXES_FOLDER).iterdir()
    totals = emitted_totals(folder)
    requests = [event.data for _, event in events if isinstance(event, RequestFinished)]
    assert totals.requests == len(requests)
    assert totals.gpu_ns == sum(one.gpu_ns for one in requests)
    assert totals.tokens == {
        meter: sum(getattr(one, meter) for one in requests) for meter in TOKEN_METERS
    }


def settings_for(folder: Path) -> InferenceSettings:
    """A host of its own, with small batches and segments."""
    return InferenceSettings.model_validate(
        {
            "host_folder": folder / "host",
            "spool_fsync": "never",
            "spool_segment_bytes": 16_384,
            "outbox_batch_records": 50,
        }
    )
