"""Whole columns checked and converted at once, without an object per value; unsure means no.

Every function takes one column as Arrow read it out of JSON and either returns the array that
the ledger takes, or raises `Unsure`. `Unsure` refuses nothing: whoever catches it lets the
reference decoder judge record by record.
"""

from array import array
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from schemas.ids import EVENT_TIME_FIRST_MS, EVENT_TIME_LAST_MS

_HEX = b"0123456789abcdef"
_DIGITS = b"0123456789"
_UUID_CHARS = 36
_UUID_DASHES = (8, 13, 18, 23)
_TIME_CHARS = 24
_TIME_MARKS = b"--T::.Z"


class Unsure(Exception):  # noqa: N818 - not an error: nothing is wrong yet
    """Something in this column needs a closer look; caught inside the decoder, never outside."""


@dataclass(frozen=True, slots=True)
class Text:
    """What a contract asks of a text field: a pattern, and lengths in characters."""

    pattern: str
    shortest: int
    longest: int


@dataclass(frozen=True, slots=True)
class Whole:
    """What a contract asks of an integer field, both ends included."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Members:
    """What JSON held, by contract and field: one row per event, of `parts` one row per part.

    `part_offsets`, one more than events, say which parts are whose, as in an Arrow list.
    """

    envelope: dict[str, pa.Array]
    data: dict[str, pa.Array]
    parts: dict[str, pa.Array]
    part_offsets: pa.Array


def only_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.unify_dictionaries().combine_chunks()


def demand(holds: pa.Array) -> None:
    """Raise `Unsure` unless every value is true."""
    if len(holds) and not pc.all(holds, skip_nulls=False).as_py():
        raise Unsure


def integers(column: pa.Array, rule: Whole) -> pa.Array:
    """Int64 column whose values are all within the rule."""
    _within(column, rule.least, rule.most)
    return column


def texts(column: pa.Array, rule: Text) -> pa.Array:
    """String column of values that are mostly different."""
    # In RE2, as in the contract's own engine, `$` is the end of the text and nothing else. The
    # patterns are of ASCII, so what matches is as many characters as bytes.
    demand(pc.match_substring_regex(column, rule.pattern))
    _within(pc.binary_length(column), rule.shortest, rule.longest)
    return column


def names(column: pa.Array, rule: Text) -> pa.DictionaryArray:
    """Dictionary column of values that repeat; each different one is checked once."""
    encoded = column.dictionary_encode()
    texts(encoded.dictionary, rule)
    return encoded


def uuids(column: pa.Array, *, version_7: bool) -> pa.Array:
    """Binary(16) column of lower-case UUIDs, of version 7 (RFC 9562) where asked for."""
    joined, count = _joined(column, _UUID_CHARS), len(column)
    if any(joined[dash::_UUID_CHARS] != b"-" * count for dash in _UUID_DASHES):
        raise Unsure
    variants = joined[19::_UUID_CHARS].translate(None, b"89ab")
    if version_7 and (joined[14::_UUID_CHARS] != b"7" * count or variants):
        raise Unsure
    digits = joined.replace(b"-", b"")
    if len(digits) != 32 * count or digits.translate(None, _HEX):
        raise Unsure
    raw = bytes.fromhex(digits.decode("ascii"))
    return pa.Array.from_buffers(pa.binary(16), count, [None, pa.py_buffer(raw)])


def repeated_uuids(column: pa.Array) -> pa.Array:
    """Binary(16) column of UUIDs that repeat: each different one is converted once."""
    encoded = column.dictionary_encode()
    return uuids(encoded.dictionary, version_7=False).take(encoded.indices)


def uuid7_times(ids: pa.Array) -> pa.Array:
    """Int64 milliseconds inside a column of UUIDv7, all within the years of the ledger."""
    halves = array("Q")
    halves.frombytes(ids.buffers()[1].to_pybytes())
    halves.byteswap()
    high = halves[0::2]
    column = pa.Array.from_buffers(pa.uint64(), len(high), [None, pa.py_buffer(high)])
    found = pc.shift_right(column, pa.scalar(16, pa.uint64())).cast(pa.int64())
    _within(found, EVENT_TIME_FIRST_MS, EVENT_TIME_LAST_MS - 1)
    return found


def instants(column: pa.Array) -> pa.Array:
    """Int64 milliseconds of times written as `schemas.ids.format_ms` writes them."""
    marks = _joined(column, _TIME_CHARS).translate(None, _DIGITS)
    if marks != _TIME_MARKS * len(column):
        raise Unsure
    # Without its Z: a time zone would make Arrow read its whole zone database first.
    plain = pc.binary_slice(column.cast(pa.binary()), 0, _TIME_CHARS - 1).cast(pa.string())
    found = plain.cast(pa.timestamp("ms")).cast(pa.int64())
    _within(found, EVENT_TIME_FIRST_MS, EVENT_TIME_LAST_MS - 1)
    return found


def _within(column: pa.Array, least: int, most: int) -> None:
    limits = pc.min_max(column)
    if len(column) and not (least <= limits["min"].as_py() and limits["max"].as_py() <= most):
        raise Unsure


def _joined(column: pa.Array, length: int) -> bytes:
    """All values of a string column after each other, each of `length` bytes."""
    _within(pc.binary_length(column), length, length)
    if not len(column):
        return b""
    offsets = memoryview(column.buffers()[1]).cast("i")
    first = offsets[column.offset]
    joined: bytes = column.buffers()[2].slice(first, length * len(column)).to_pybytes()
    return joined
