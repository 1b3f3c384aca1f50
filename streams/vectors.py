"""Whole columns checked and converted at once, without an object per value; unsure means no.

Every function takes one column of values as they came out of JSON and either returns the Arrow
array that the ledger takes, or raises `Unsure`. `Unsure` refuses nothing: whoever catches it
lets the reference decoder judge record by record.
"""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.ids import EVENT_TIME_FIRST_MS, EVENT_TIME_LAST_MS

_HEX = b"0123456789abcdef"
_DIGITS = str.maketrans("", "", "0123456789")
_UUID_CHARS = 36
_TIME_CHARS = 24
_TIME_MARKS = "--T::.Z"


class Unsure(Exception):  # noqa: N818 - not an error: nothing is wrong yet
    """Something in this column needs a closer look; caught inside the decoder, never outside."""


@dataclass(frozen=True, slots=True)
class Text:
    """What a contract asks of a text field: a pattern, and lengths in characters."""

    lines: re.Pattern[str]
    shortest: int
    longest: int

    @classmethod
    def of(cls, pattern: str, shortest: int, longest: int) -> "Text":
        """The rule of a contract's pattern, which must not match a newline."""
        # Possessive, so that a long column needs no memory to step back into.
        return cls(re.compile(rf"(?>(?:{pattern.strip('^$')})\n)*+"), shortest, longest)

    def demand(self, values: Sequence[str]) -> None:
        """Check all values at once, as lines; none of them may hold a newline to pass.

        Raises:
            Unsure: If the contract may not take one of them.
        """
        lengths = list(map(len, values))
        if lengths and not self.shortest <= min(lengths) <= max(lengths) <= self.longest:
            raise Unsure
        lines = "\n".join(values) + "\n" if lengths else ""
        if lines.count("\n") != len(lengths) or self.lines.fullmatch(lines) is None:
            raise Unsure


@dataclass(frozen=True, slots=True)
class Whole:
    """What a contract asks of an integer field, both ends included."""

    least: int
    most: int


def integers(values: Sequence[Any], rule: Whole) -> pa.Array:
    """Int64 column. A float such as 1.0 is no integer to the contract, and is not one here."""
    try:
        packed = array("q", values)
    except (TypeError, OverflowError) as error:
        raise Unsure from error
    column = pa.Array.from_buffers(pa.int64(), len(packed), [None, pa.py_buffer(packed)])
    limits = pc.min_max(column)
    if packed and not (rule.least <= limits["min"].as_py() and limits["max"].as_py() <= rule.most):
        raise Unsure
    return column


def texts(values: Sequence[str], rule: Text) -> pa.Array:
    """String column of values that are mostly different."""
    rule.demand(values)
    return pa.array(values, pa.string())


def names(values: Sequence[str], rule: Text) -> pa.DictionaryArray:
    """Dictionary column of values that repeat; each different one is checked once."""
    try:
        column = pa.array(values, pa.string()).dictionary_encode()
    except UnicodeEncodeError as error:
        raise Unsure from error
    rule.demand(column.dictionary.to_pylist())
    return column


def uuids(values: Sequence[str], *, version_7: bool) -> pa.Array:
    """Binary(16) column of lower-case UUIDs, of version 7 (RFC 9562) where asked for."""
    if set(map(len, values)) - {_UUID_CHARS}:
        raise Unsure
    count = len(values)
    joined = "".join(values)
    for dash in (8, 13, 18, 23):
        if joined[dash::_UUID_CHARS] != "-" * count:
            raise Unsure
    if version_7 and (
        joined[14::_UUID_CHARS] != "7" * count or joined[19::_UUID_CHARS].strip("89ab")
    ):
        raise Unsure
    try:
        digits = joined.replace("-", "").encode("ascii")
    except UnicodeEncodeError as error:
        raise Unsure from error
    if len(digits) != 32 * count or digits.translate(None, _HEX):
        raise Unsure
    raw = bytes.fromhex(digits.decode("ascii"))
    return pa.Array.from_buffers(pa.binary(16), count, [None, pa.py_buffer(raw)])


def repeated_uuids(values: Sequence[str]) -> pa.Array:
    """Binary(16) column of UUIDs that repeat: each different one is converted once."""
    column = pa.array(values, pa.string()).dictionary_encode()
    return uuids(column.dictionary.to_pylist(), version_7=False).take(column.indices)


def uuid7_times(ids: pa.Array) -> pa.Array:
    """Int64 milliseconds inside a column of UUIDv7, all within the years of the ledger."""
    halves = array("Q")
    halves.frombytes(ids.buffers()[1].to_pybytes())
    halves.byteswap()
    high = halves[0::2]
    column = pa.Array.from_buffers(pa.uint64(), len(high), [None, pa.py_buffer(high)])
    return _within_ledger_years(pc.shift_right(column, pa.scalar(16, pa.uint64())).cast(pa.int64()))


def instants(values: Sequence[str]) -> pa.Array:
    """Int64 milliseconds of times written as `schemas.ids.format_ms` writes them."""
    if set(map(len, values)) - {_TIME_CHARS}:
        raise Unsure
    if "".join(values).translate(_DIGITS) != _TIME_MARKS * len(values):
        raise Unsure
    try:
        # Without its Z: a time zone would make Arrow read its whole zone database first.
        plain = pc.utf8_slice_codeunits(pa.array(values, pa.string()), 0, _TIME_CHARS - 1)
        parsed = plain.cast(pa.timestamp("ms"))
    except pa.ArrowInvalid as error:
        raise Unsure from error
    return _within_ledger_years(parsed.cast(pa.int64()))


def _within_ledger_years(column: pa.Array) -> pa.Array:
    limits = pc.min_max(column)
    if len(column) and not (
        limits["min"].as_py() >= EVENT_TIME_FIRST_MS and limits["max"].as_py() < EVENT_TIME_LAST_MS
    ):
        raise Unsure
    return column
