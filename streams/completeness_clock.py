"""Names hosts whose clock was wrong: events ahead of now, before their source, behind a watermark.

An alarm and no reason to hold: an event's hour is that of its id, on every copy and in every
replay, so what it adds up to stays exact. Somebody must look, for it may be the wrong hour.
"""

from collections.abc import Iterator, Sequence

from infra.clickhouse.client import external
from schemas.ids import format_ms
from schemas.periods import hour_text
from schemas.units import MS_PER_HOUR, MS_PER_S
from streams.completeness import SourceState
from streams.completeness_ledger import Ledger, batch_table
from streams.completeness_sql import dated_outside


def find_wrong_clocks(
    ledger: Ledger, states: Sequence[SourceState], since_ms: int, now_ms: int
) -> None:
    """Write into each state what shows that its host's clock was wrong.

    Args:
        ledger: The ledger.
        states: Sources that were proven.
        since_ms: What is dated before it was not read, and so seems to be missing.
        now_ms: By our own clock.
    """
    ahead_ms = now_ms + ledger.settings.close_clock_ahead_s * MS_PER_S
    by_source = {state.source: state for state in states}
    rows = ledger.client.query(
        dated_outside(ledger.offsets, since_ms, ahead_ms),
        external_data=external(batch=batch_table(list(by_source))),
    ).result_rows
    for source, after, records, sequence, time_ms in rows:
        state = by_source[source]
        told = f"{records} records from sequence {sequence} on are dated up to {format_ms(time_ms)}"
        if after:
            text = f"{told}, which is {(time_ms - now_ms) // MS_PER_S} s ahead of now"
        else:
            text = (
                f"{told}, too long before the source opened ({format_ms(state.opened_ms or 0)}) to"
                " be read: they count as missing until RENTROLL_CLOSE_LOOKBACK_S reaches back so"
                " far, or they are declared lost"
            )
        state.clock_alarms.append(text)
    for state in states:
        state.clock_alarms += _behind_watermarks(state)


def _behind_watermarks(state: SourceState) -> Iterator[str]:
    """Requests of an hour after an interval had said that nothing so old was open any more."""
    for hour, sequence in sorted(state.findings.last_by_hour.items()):
        passed = next(
            (
                one
                for one in state.watermarks
                if one.oldest_open_ms >= (hour + 1) * MS_PER_HOUR and one.sequence < sequence
            ),
            None,
        )
        if passed is not None:
            yield (
                f"the request at sequence {sequence} belongs to {hour_text(hour * MS_PER_HOUR)},"
                f" but the interval at sequence {passed.sequence} had said that nothing older than"
                f" {format_ms(passed.oldest_open_ms)} was open: the clock went back"
            )
