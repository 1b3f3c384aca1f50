"""Rebuilds the whole ledger beside the one in use, proves it, and puts it in its place.

Nothing stops meanwhile: before and after the exchange the log is read to its end, and what was
read twice collapses. The old tables are dropped only when every run ever published came out of
the new ones to the same digest.
"""

from dataclasses import dataclass

from sqlalchemy import Engine

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.store.runs import RecordedRun, runs_between
from schemas.errors import IngestError
from schemas.tables import TABLES
from schemas.topics import TOPICS
from streams.close_publishing import show_runs
from streams.replay import ALL_TIME, Progress, Replay, Replayed, ReplayTarget
from streams.replay_reading import ArchiveSource, KafkaSource
from streams.settings import StreamSettings
from streams.sink_needs import Place

_TOPIC_NAMES = tuple(topic.name for topic in TOPICS)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a ledger is rebuilt from: the archive, and the log for what is not archived yet."""

    archive: ArchiveSource
    log: KafkaSource | None


def rebuild(
    target: ReplayTarget,
    store: Engine,
    sources: Sources,
    settings: StreamSettings,
    progress: Progress = lambda *_: None,
) -> Replayed:
    """Rebuild the ledger, and replace it if every published run came out identical.

    Args:
        target: The server, a scratch database, and the ledger's name; it need not be there.
        store: The billing store, which names every run.
        sources: The archive and, so that nothing newer is lost, the log.
        settings: Bounds.
        progress: Told after each step.

    Returns:
        What was compared. If it is not identical, the ledger is as it was, and what was rebuilt
        stays in the scratch database.

    Raises:
        IngestError: If records are neither in the archive nor in the log.
    """
    if target.published is None:
        raise IngestError("name the ledger that is to be replaced")
    migrate(target.url, target.published)
    replay = Replay(ReplayTarget(target.url, target.scratch, None), store, settings, progress)
    replay.prepare()
    archived = sources.archive.ends()
    loaded = dict(archived)
    replay.load(sources.archive.batches(archived, None, older=False), sum(archived.values()))
    _follow(replay, sources.log, loaded)
    runs = _runs(store)
    replayed = replay.replayed
    replayed.hours = replay.recorded(runs)
    if not replayed.identical:
        return replayed
    with connect(target.url, target.scratch) as client:
        show_runs(client, runs)
        _exchange(client, target.published, target.scratch)
    _finish(target, store, sources, settings, loaded, len(runs))
    replay.drop()
    return replayed


def _finish(
    target: ReplayTarget,
    store: Engine,
    sources: Sources,
    settings: StreamSettings,
    loaded: dict[Place, int],
    known_runs: int,
) -> None:
    """Bring what was written into the old tables while the new ones were made."""
    live = Replay(ReplayTarget(target.url, str(target.published), None), store, settings)
    _follow(live, sources.log, loaded)
    newer = _runs(store)[known_runs:]
    if newer:
        live.recorded(newer)
        with connect(target.url, target.published) as client:
            show_runs(client, newer)


def _follow(replay: Replay, log: KafkaSource | None, loaded: dict[Place, int]) -> None:
    """Read the log from where `loaded` ends to where it ends now, and note that."""
    if log is None:
        return
    ranges = {}
    for place, (start, end) in log.bounds(_TOPIC_NAMES).items():
        known = loaded.get(place, 0)
        if start > known and end > known and place in loaded:
            raise IngestError(
                f"{place[0]}/{place[1]}: offsets {known} to {start} are neither in the archive nor"
                " in Kafka"
            )
        ranges[place] = (max(start, known), end)
        loaded[place] = max(end, known)
    replay.load(log.ranges(ranges), sum(end for _, end in ranges.values()))


def _runs(store: Engine) -> list[RecordedRun]:
    """Every run that was ever published, in the order in which that happened."""
    runs = runs_between(store, ALL_TIME.start, ALL_TIME.end)
    return sorted(runs, key=lambda run: (run.header.published_at_ms, run.header.hour, run.position))


def _exchange(client: Client, published: str, rebuilt: str) -> None:
    """Put the rebuilt tables in the old ones' place; views, and tables of others, stay.

    Table by table: an exchange of a whole database would leave its views behind.
    """
    for table in TABLES:
        client.command(f"EXCHANGE TABLES {published}.{table.name} AND {rebuilt}.{table.name}")
