"""Reads a published request trace: CSV with TIMESTAMP, ContextTokens, GeneratedTokens.

The format is that of the Azure LLM inference traces. Every row is checked before any is used, so
a bad file bills nobody partly. A file with a header and no rows is an empty trace; a file without
a header, even of zero bytes, is an error. Blank lines are skipped, rows out of order are sorted by
time, and rows of equal time keep the order of the file.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from schemas.errors import TraceFileError
from schemas.ids import EVENT_TIME_FIRST_MS, EVENT_TIME_LAST_MS
from schemas.units import NS_PER_MS, NS_PER_S

HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
TOKENS_PER_ROW_MAX = 10_000_000
"""No model has a longer context; a larger figure is a damaged row."""
_TOKENS_DIGITS_MAX = len(str(TOKENS_PER_ROW_MAX))
_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(Z|[+-]\d{2}:?\d{2})?"
)
_ROWS_PER_REPORT = 5_000


class TraceRow(NamedTuple):
    """One request of the trace; `number` counts rows of the file from 0."""

    number: int
    admitted_ns: int
    context_tokens: int
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole trace, by time, and the SHA-256 of its file."""

    name: str
    sha256: str
    rows: tuple[TraceRow, ...]


def read_trace(path: Path, *, on_rows: Callable[[int], None] | None = None) -> Trace:
    """Read and check a whole trace.

    Args:
        path: The CSV file.
        on_rows: Called now and then with the number of rows read so far.

    Raises:
        TraceFileError: For the first thing that is wrong, with file, line, column and value.
    """
    rows: list[TraceRow] = []
    for row in _rows(path):
        rows.append(row)
        if on_rows is not None and len(rows) % _ROWS_PER_REPORT == 0:
            on_rows(len(rows))
    rows.sort(key=lambda row: row.admitted_ns)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Trace(path.name, sha256, tuple(rows))


def _rows(path: Path) -> Iterator[TraceRow]:
    lines = _lines(path)
    for line, text in lines:
        if text.strip():
            _check_header(path, line, text.strip().split(","))
            break
    else:
        raise TraceFileError(f"{path}:1: no header, expected {','.join(HEADER)}")
    number = 0
    for line, text in lines:
        fields = text.rstrip("\r\n").split(",")
        if len(fields) != len(HEADER):
            if not text.strip():
                continue
            raise _wrong(path, line, _unmatched_column(fields), ",".join(fields), "missing")
        when, context, generated = fields
        yield TraceRow(
            number,
            _parse_time(path, line, when.strip()),
            _parse_tokens(path, line, HEADER[1], context.strip()),
            _parse_tokens(path, line, HEADER[2], generated.strip()),
        )
        number += 1


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines as text; the first bytes that are not UTF-8 are named with their place."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise TraceFileError(f"{path}:1: cannot be read: {error.strerror}") from error
    with file:
        for number, raw in enumerate(file, 1):
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                before = raw[: error.start].count(b",")
                column = HEADER[min(before, len(HEADER) - 1)]
                raise _wrong(path, number, column, repr(raw[:80]), "not UTF-8") from error
            yield number, text.removeprefix("\ufeff") if number == 1 else text


def _check_header(path: Path, line: int, fields: list[str]) -> None:
    found = tuple(field.strip() for field in fields)
    if found != HEADER:
        raise TraceFileError(
            f"{path}:{line}: wrong header {','.join(fields)!r}, expected {','.join(HEADER)}"
        )


def _unmatched_column(fields: list[str]) -> str:
    """The first column that a row of the wrong width lacks, or what it has too much."""
    return HEADER[len(fields)] if len(fields) < len(HEADER) else f"#{len(HEADER) + 1}"


def _parse_tokens(path: Path, line: int, column: str, text: str) -> int:
    if text.isascii() and text.isdigit():
        if len(text) <= _TOKENS_DIGITS_MAX and (tokens := int(text)) <= TOKENS_PER_ROW_MAX:
            return tokens
        raise _wrong(path, line, column, text[:40], f"more than {TOKENS_PER_ROW_MAX} tokens")
    if not text:
        raise _wrong(path, line, column, text, "missing")
    if re.fullmatch(r"-[0-9]+", text):
        raise _wrong(path, line, column, text, "negative")
    raise _wrong(path, line, column, text, "not a whole number")


def _parse_time(path: Path, line: int, text: str) -> int:
    fraction = text[20:]
    if text[19:20] == "." and fraction.isascii() and fraction.isdigit() and len(fraction) <= 9:  # noqa: PLR2004
        second_ns = _second_ns(text[:19])
        if second_ns:
            return second_ns + int(fraction.ljust(9, "0"))
    return _parse_any_time(path, line, text)


@lru_cache(maxsize=1024)
def _second_ns(text: str) -> int:
    """Unix ns of `2023-11-16 18:15:46`; 0 where it is anything else, or needs to be refused.

    Requests of one second share its text, so most rows cost one look-up.
    """
    if not _TIME.fullmatch(text):
        return 0
    try:
        unix_s = _unix_s(f"{text}+00:00")
    except ValueError:
        return 0
    return unix_s * NS_PER_S if _is_billable(unix_s * NS_PER_S) else 0


def _is_billable(unix_ns: int) -> bool:
    return EVENT_TIME_FIRST_MS <= unix_ns // NS_PER_MS < EVENT_TIME_LAST_MS


def _parse_any_time(path: Path, line: int, text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        problem = "not a time such as 2023-11-16 18:15:46.6805900" if text else "missing"
        raise _wrong(path, line, HEADER[0], text, problem)
    date, clock, fraction, offset = match.groups()
    try:
        unix_s = _unix_s(f"{date}T{clock}{'+00:00' if offset in {None, 'Z'} else offset}")
    except ValueError as error:
        raise _wrong(path, line, HEADER[0], text, "no real instant") from error
    unix_ns = unix_s * NS_PER_S + int((fraction or "0").ljust(9, "0"))
    if not _is_billable(unix_ns):
        raise _wrong(path, line, HEADER[0], text, "outside the years 2015 to 2099")
    return unix_ns


def _unix_s(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp())


def _wrong(path: Path, line: int, column: str, value: str, problem: str) -> TraceFileError:
    return TraceFileError(f"{path}:{line}: column {column}: {value!r} is {problem}")
