"""Reads a published request trace: CSV with TIMESTAMP, ContextTokens, GeneratedTokens.

The format is that of the Azure LLM inference traces. Every row is checked before any is used, so
a bad file bills nobody partly. A file with a header and no rows is an empty trace; a file without
a header, even of zero bytes, is an error. Blank lines are skipped, rows out of order are sorted by
time, and rows of equal time keep the order of the file.
"""

import csv
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
    digest = hashlib.sha256()
    rows: list[TraceRow] = []
    for row in _rows(path, digest.update):
        rows.append(row)
        if on_rows is not None and len(rows) % _ROWS_PER_REPORT == 0:
            on_rows(len(rows))
    rows.sort(key=lambda row: row.admitted_ns)
    return Trace(path.name, digest.hexdigest(), tuple(rows))


def _rows(path: Path, on_bytes: Callable[[bytes], None]) -> Iterator[TraceRow]:
    reader = csv.reader(_lines(path, on_bytes), strict=True)
    number = 0
    header_seen = False
    try:
        for fields in reader:
            line = reader.line_num
            if not any(fields):
                continue
            if not header_seen:
                _check_header(path, line, fields)
                header_seen = True
                continue
            if len(fields) != len(HEADER):
                raise _wrong(path, line, _unmatched_column(fields), ",".join(fields), "missing")
            yield TraceRow(
                number,
                _parse_time(path, line, fields[0].strip()),
                _parse_tokens(path, line, HEADER[1], fields[1].strip()),
                _parse_tokens(path, line, HEADER[2], fields[2].strip()),
            )
            number += 1
    except csv.Error as error:
        raise TraceFileError(f"{path}:{reader.line_num}: not CSV: {error}") from error
    if not header_seen:
        raise TraceFileError(f"{path}:1: no header, expected {','.join(HEADER)}")


def _lines(path: Path, on_bytes: Callable[[bytes], None]) -> Iterator[str]:
    """Lines as text; the first bytes that are not UTF-8 are named with their place."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise TraceFileError(f"{path}:1: cannot be read: {error.strerror}") from error
    with file:
        for number, raw in enumerate(file, 1):
            on_bytes(raw)
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                before = raw[: error.start].count(b",")
                column = HEADER[min(before, len(HEADER) - 1)]
                raise _wrong(path, number, column, repr(raw[:80]), "not UTF-8") from error
            if "\0" in text:
                raise _wrong(path, number, HEADER[0], repr(raw[:80]), "a NUL byte")
            yield text.removeprefix("\ufeff") if number == 1 else text


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
        tokens = int(text) if len(text) <= len(str(TOKENS_PER_ROW_MAX)) else TOKENS_PER_ROW_MAX + 1
        if tokens > TOKENS_PER_ROW_MAX:
            raise _wrong(path, line, column, text, f"more than {TOKENS_PER_ROW_MAX} tokens")
        return tokens
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
