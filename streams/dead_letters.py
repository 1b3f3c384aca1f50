"""What goes to `dlq.v1` about a refused record: where it lay, why, who sent it, its bytes. Pure."""

import base64
import hashlib
from collections.abc import Iterable

from schemas.control import DeadLetter
from schemas.topics import dead_letter_key
from schemas.units import VALUE_BYTES_MAX
from streams.decode import Refused, readable_ids


def dead_letter(topic: str, partition: int, refused: Refused) -> DeadLetter:
    """The record for `dlq.v1`; the same refusal makes the same record.

    Of a value longer than an event may be, only its first `VALUE_BYTES_MAX` bytes go along; the
    SHA-256 is that of all of them.
    """
    ids = readable_ids(refused.value)
    return DeadLetter(
        topic=topic,
        partition=partition,
        offset=refused.offset,
        reason=refused.reason,
        detail=refused.detail,
        content_sha256=hashlib.sha256(refused.value).hexdigest(),
        value_base64=base64.b64encode(refused.value[:VALUE_BYTES_MAX]).decode("ascii"),
        source=ids.source,
        sequence=ids.sequence,
        event_id=ids.event_id,
        tenant=ids.tenant,
    )


def as_records(topic: str, partition: int, refused: Iterable[Refused]) -> list[tuple[str, bytes]]:
    """Key and value for `dlq.v1` of each refused record."""
    return [
        (
            dead_letter_key(topic, partition, one.offset),
            dead_letter(topic, partition, one).model_dump_json().encode(),
        )
        for one in refused
    ]
