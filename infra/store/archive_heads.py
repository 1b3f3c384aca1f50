"""Which entries the archive's manifests had, kept outside of it: a cut one betrays itself."""

from dataclasses import dataclass

from sqlalchemy import Engine, insert, select
from sqlalchemy.exc import OperationalError

from infra.store.engine import take_turns
from infra.store.tables import archive_heads
from schemas.errors import ConservationError, ServerError


@dataclass(frozen=True, slots=True)
class ArchiveHead:
    """One entry of a manifest: its number, the offset behind its range, and its SHA-256."""

    topic: str
    partition: int
    number: int
    end_offset: int
    sha256: str
    recorded_at_ms: int


def record_archive_head(store: Engine, head: ArchiveHead) -> None:
    """Append an entry; the same again (its time aside) changes nothing.

    Raises:
        ConservationError: If another entry of that number is on record.
        ServerError: If the store cannot be reached.
    """
    try:
        with store.begin() as connection:
            take_turns(connection, f"archive_heads/{head.topic}/{head.partition}")
            known = connection.execute(
                select(archive_heads.c.sha256).where(
                    archive_heads.c.topic == head.topic,
                    archive_heads.c.partition == head.partition,
                    archive_heads.c.number == head.number,
                )
            ).scalar_one_or_none()
            if known is None:
                connection.execute(
                    insert(archive_heads).values(
                        topic=head.topic,
                        partition=head.partition,
                        number=head.number,
                        end_offset=head.end_offset,
                        sha256=head.sha256,
                        recorded_at_ms=head.recorded_at_ms,
                    )
                )
    except OperationalError as error:
        raise ServerError(f"the billing store cannot be reached: {error}") from error
    if known not in (None, head.sha256):
        raise ConservationError(
            f"entry {head.number} of the archive of {head.topic}/{head.partition} is on record"
            f" with SHA-256 {known}, now {head.sha256}: the archive was changed"
        )


def archive_heads_of(store: Engine, topic: str, partition: int) -> list[ArchiveHead]:
    """Every recorded entry of one partition, by number. One entry is some hundred bytes."""
    wanted = (
        select(archive_heads)
        .where(archive_heads.c.topic == topic, archive_heads.c.partition == partition)
        .order_by(archive_heads.c.number)
    )
    with store.connect() as connection:
        return [ArchiveHead(**row) for row in connection.execute(wanted).mappings()]


def archived_places(store: Engine) -> list[tuple[str, int]]:
    """Every partition of which an entry was recorded, sorted."""
    wanted = select(archive_heads.c.topic, archive_heads.c.partition).distinct()
    with store.connect() as connection:
        return sorted((row.topic, row.partition) for row in connection.execute(wanted))
