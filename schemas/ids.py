"""Ids and digests, all derived from content, so that the same input twice writes the same rows."""

import hashlib
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from schemas.units import MS_PER_S

UUID7_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$"
CONTENT_HASH_BYTES = 16

EVENT_TIME_FIRST_MS = 1_420_070_400_000
"""2015-01-01: an event before it has a broken clock, and would touch a partition of its own."""
EVENT_TIME_LAST_MS = 4_102_444_800_000
"""2100-01-01, exclusive."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_MS_BITS = 48
_RANDOM_HIGH_BITS = 12
_RANDOM_LOW_BITS = 62


def uuid7(unix_ms: int, entropy: int) -> str:
    """Make the UUIDv7 of RFC 9562 from a time and 74 bits that the caller chose.

    Args:
        unix_ms: Milliseconds since the epoch, `[0, 2**48)`.
        entropy: Any integer; its lowest 74 bits are used.

    Raises:
        ValueError: If `unix_ms` does not fit.
    """
    if not 0 <= unix_ms < 1 << _MS_BITS:
        raise ValueError(f"unix_ms must be in [0, 2**48): {unix_ms}")
    high = (entropy >> _RANDOM_LOW_BITS) & ((1 << _RANDOM_HIGH_BITS) - 1)
    low = entropy & ((1 << _RANDOM_LOW_BITS) - 1)
    value = unix_ms << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def is_uuid7(text: str) -> bool:
    """Whether a UUID is of version 7: only that one carries a time."""
    return text[14:15] == "7"


def uuid7_unix_ms(event_id: str) -> int:
    """Milliseconds since the epoch that a UUIDv7 carries."""
    return int(event_id[:8] + event_id[9:13], 16)


def format_ms(unix_ms: int) -> str:
    """The one way in which events write a time: `2026-10-01T00:00:00.123Z`."""
    seconds, rest_ms = divmod(unix_ms, MS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ms:03d}Z"


def parse_ms(text: str) -> int:
    """Milliseconds since the epoch of a time as `format_ms` writes it.

    Raises:
        ValueError: If the text has another form or names no real instant.
    """
    if not re.fullmatch(TIME_PATTERN[1:-1], text):
        raise ValueError(f"a time looks like 2026-10-01T00:00:00.123Z, not {text!r}")
    whole = datetime.fromisoformat(f"{text[:19]}+00:00")
    return (whole - _EPOCH) // _SECOND * MS_PER_S + int(text[20:23])


def derived_uuid(*parts: str) -> str:
    """A UUID (version 8, RFC 9562) from the SHA-256 over the parts; same parts, same id."""
    digest = bytearray(_framed_sha256(parts)[:16])
    digest[6] = (digest[6] & 0x0F) | 0x80
    digest[8] = (digest[8] & 0x3F) | 0x80
    return str(uuid.UUID(bytes=bytes(digest)))


def derived_entropy(*parts: str) -> int:
    """74 or more bits for `uuid7`, from the SHA-256 over the parts."""
    return int.from_bytes(_framed_sha256(parts)[:10], "big")


def derived_hex(*parts: str) -> str:
    """The SHA-256 over the parts, each framed by its length, as 64 hex digits."""
    return _framed_sha256(parts).hex()


def content_hash(value: bytes) -> bytes:
    """The first 128 bits of SHA-256 over a record's value bytes: 16 bytes."""
    return hashlib.sha256(value).digest()[:CONTENT_HASH_BYTES]


def digest_of_hashes(hashes: Iterable[bytes]) -> str:
    """SHA-256 over the *sorted* content hashes, as hex: the digest of a set of events.

    Sorting makes it independent of order; hashing the sorted list, unlike a sum or an XOR,
    leaves nobody a second set with the same digest.
    """
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()


def range_sha256(hashes_in_order: Iterable[bytes]) -> str:
    """SHA-256 over the content hashes of a range of `sequence`, in its order, as hex."""
    running = hashlib.sha256()
    for one in hashes_in_order:
        running.update(one)
    return running.hexdigest()


def _framed_sha256(parts: Iterable[str]) -> bytes:
    running = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        running.update(len(raw).to_bytes(4, "big"))
        running.update(raw)
    return running.digest()
