"""A trace is read whole and exactly, or refused with file, line, column and value."""

from pathlib import Path

import pytest

from inference.simulate.run import SAMPLE_TRACE
from inference.simulate.trace import read_trace
from schemas.errors import TraceFileError
from tests.support.simulated import HEADER, write_trace

GOOD = "2023-11-16 18:15:46.6805900,374,44"


def test_sample_in_the_package_is_read_to_the_last_digit() -> None:
    trace = read_trace(SAMPLE_TRACE)
    assert len(trace.rows) == 300
    assert trace.rows[0] == (0, 1_700_158_546_680_590_000, 374, 44)


@pytest.mark.parametrize(
    ("text", "unix_ns"),
    [
        ("2023-11-16 18:15:46.6805900", 1_700_158_546_680_590_000),
        ("2023-11-16 18:15:46", 1_700_158_546_000_000_000),
        ("2023-11-16T18:15:46.5Z", 1_700_158_546_500_000_000),
        ("2023-11-16 18:15:46.123456789", 1_700_158_546_123_456_789),
        ("2023-11-16 19:15:46.6805900+01:00", 1_700_158_546_680_590_000),
        ("2023-11-16 12:45:46-0530", 1_700_158_546_000_000_000),
    ],
)
def test_time_is_exact_with_any_fraction_and_offset(
    tmp_path: Path, text: str, unix_ns: int
) -> None:
    trace = read_trace(write_trace(tmp_path, f"{text},1,2"))
    assert trace.rows[0].admitted_ns == unix_ns


@pytest.mark.parametrize(
    ("row", "column", "problem"),
    [
        ("2023-11-16 18:15:46,374", "GeneratedTokens", "missing"),
        ("2023-11-16 18:15:46", "ContextTokens", "missing"),
        ("2023-11-16 18:15:46,,44", "ContextTokens", "missing"),
        (",374,44", "TIMESTAMP", "missing"),
        ("2023-11-16 18:15:46,374,-1", "GeneratedTokens", "negative"),
        ("2023-11-16 18:15:46,3.5,44", "ContextTokens", "not a whole number"),
        ("2023-11-16 18:15:46,abc,44", "ContextTokens", "not a whole number"),
        ("2023-11-16 18:15:46,1e3,44", "ContextTokens", "not a whole number"),
        ("2023-11-16 18:15:46,٣,44", "ContextTokens", "not a whole number"),
        ("2023-11-16 18:15:46,374,10000001", "GeneratedTokens", "more than 10000000 tokens"),
        (f"2023-11-16 18:15:46,374,{'9' * 5000}", "GeneratedTokens", "more than"),
        ("yesterday,374,44", "TIMESTAMP", "not a time"),
        ("2023-02-30 18:15:46,374,44", "TIMESTAMP", "no real instant"),
        ("2023-11-16 25:15:46,374,44", "TIMESTAMP", "no real instant"),
        ("1999-11-16 18:15:46,374,44", "TIMESTAMP", "outside the years"),
        ("2023-11-16 18:15:46,374,44,9", "#4", "missing"),
    ],
)
def test_wrong_field_is_named_with_line_column_and_value(
    tmp_path: Path, row: str, column: str, problem: str
) -> None:
    path = write_trace(tmp_path, GOOD, GOOD, row, GOOD)
    with pytest.raises(TraceFileError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:4: column {column}: ")
    assert problem in message or column == "#4"


def test_header_only_is_an_empty_trace_and_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    assert read_trace(write_trace(tmp_path)).rows == ()
    with pytest.raises(TraceFileError, match="no header"):
        read_trace(write_trace(tmp_path, header=""))
    with pytest.raises(TraceFileError, match="wrong header 'TIME,In,Out'"):
        read_trace(write_trace(tmp_path, GOOD, header="TIME,In,Out\n"))
    with pytest.raises(TraceFileError, match="cannot be read"):
        read_trace(tmp_path / "nowhere.csv")


def test_bytes_that_are_not_text_are_named_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(HEADER.encode() + GOOD.encode() + b"\n2023-11-16 18:15:46,\xff\xfe,44\n")
    with pytest.raises(TraceFileError, match=r":3: column ContextTokens: .* not UTF-8"):
        read_trace(path)


def test_unsorted_rows_are_sorted_and_equal_times_keep_their_order(tmp_path: Path) -> None:
    later, sooner = "2023-11-16 18:15:47", "2023-11-16 18:15:46"
    rows = (f"{later},1,1", f"{sooner},2,2", f"{later},3,3", f"{sooner},4,4")
    trace = read_trace(write_trace(tmp_path, *rows))
    assert [row.context_tokens for row in trace.rows] == [2, 4, 1, 3]


def test_windows_line_ends_blank_lines_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}{GOOD}\n\n{GOOD}".replace("\n", "\r\n").encode())
    assert len(read_trace(path).rows) == 2
