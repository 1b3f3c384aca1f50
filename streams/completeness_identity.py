"""Holds the proven intervals of each engine's life to the identity, over all sources of its host.

One life of an engine may be told by several sources, one after the other: an interval on the next
source goes on where the last one ended, and a request that was open meanwhile brings its part
there. So everything is proven first, and engines are checked after that, in bounded batches.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from infra.clickhouse.client import external
from schemas.units import SEQUENCE_MAX
from streams.completeness import SourceState, Watermark, crossing_watermarks
from streams.completeness_decisions import Decisions
from streams.completeness_engines import IntervalFacts, PartsSum, TimeLine, check_engine
from streams.completeness_ledger import (
    END_OF_TIME_MS,
    Ledger,
    batch_table,
    hosts_table,
    rejected_table,
    spans_table,
)
from streams.completeness_ranges import Problem
from streams.completeness_sql import interval_rows, parts_by_interval
from streams.rollup_sql import HourRange

_EARLIER, _LATER = 0, SEQUENCE_MAX + 1
"""Places in a source's sequences of what is excused on the sources before and after it."""
Sums = dict[tuple[str, int], PartsSum]
"""Sums of parts by engine and sequence of the interval; interval 0 is none."""


@dataclass(slots=True)
class _Host:
    """What is carried along the sources of one host, oldest first.

    `tails` are each engine's last interval so far and the place of its source among the host's.
    `excused` are, source by source, the sequences whose content the ledger cannot have.
    """

    sources: list[str] = field(default_factory=list)
    excused: list[list[int]] = field(default_factory=list)
    tails: dict[str, tuple[int, IntervalFacts]] = field(default_factory=dict)


class Identity:
    """Checks sources against each other; each must have been proven before."""

    def __init__(
        self, ledger: Ledger, states: Sequence[SourceState], decisions: Decisions, since_ms: int
    ) -> None:
        """Take all sources that are read, oldest first; `since_ms` is before their first event."""
        self._ledger = ledger
        self._states = states
        self._hours = HourRange(since_ms, END_OF_TIME_MS)
        self._hosts: dict[str, _Host] = {}
        for state in states:
            host = self._hosts.setdefault(state.host, _Host())
            host.sources.append(state.source)
            host.excused.append(_excused(state, decisions))

    def check(self, batch: Sequence[SourceState]) -> None:
        """Check some sources, which follow those that were checked before."""
        intervals = self._read_intervals(batch)
        sums = self._read_parts(batch)
        for number, state in enumerate(batch):
            self._check_source(state, intervals.get(number, []), sums.get(state.source, {}))

    def _read_intervals(self, batch: Sequence[SourceState]) -> dict[int, list[IntervalFacts]]:
        """The proven intervals of each source of the batch, ascending by sequence."""
        rows = self._ledger.client.query(
            interval_rows(self._ledger.offsets, self._hours),
            external_data=external(batch=batch_table([one.source for one in batch])),
        ).result_rows
        found: dict[int, list[IntervalFacts]] = {}
        for number, content_hash, *facts in rows:
            findings, one = batch[number].findings, IntervalFacts(*facts)
            if bytes.fromhex(content_hash) not in findings.rejected and findings.proves(
                one.sequence
            ):
                found.setdefault(number, []).append(one)
        return found

    def _read_parts(self, batch: Sequence[SourceState]) -> dict[str, Sums]:
        """Sums of parts by source; all sources of a host take part, whatever their batch."""
        hosts = {one.host for one in batch}
        kin = [one for one in self._states if one.host in hosts]
        rows = self._ledger.client.query(
            parts_by_interval(self._ledger.offsets, self._hours),
            external_data=external(
                hosts=hosts_table(kin), spans=spans_table(kin), rejected=rejected_table(kin)
            ),
        ).result_rows
        found: dict[str, Sums] = {}
        for source, engine, sequence, parts, ordinals, gpu_ns in rows:
            found.setdefault(source, {})[engine, sequence] = PartsSum(parts, ordinals, gpu_ns)
        return found

    def _check_source(
        self, state: SourceState, intervals: Sequence[IntervalFacts], sums: Sums
    ) -> None:
        """Hold one source's intervals to the identity, and take the watermarks from them."""
        state.watermarks = crossing_watermarks(
            Watermark(one.sequence, one.oldest_open_ms) for one in intervals
        )
        host = self._hosts[state.host]
        place = host.sources.index(state.source)
        own = host.excused[place]
        engines: dict[str, list[IntervalFacts]] = {}
        for one in intervals:
            engines.setdefault(one.engine, []).append(one)
            state.time_lines.setdefault(one.engine, TimeLine(one.replica)).add(one)
        for engine, of_engine in engines.items():
            tail = host.tails.get(engine)
            excused = [
                *_excused_before(host, place, tail),
                *own,
                *([_LATER] if any(host.excused[place + 1 :]) else []),
            ]
            by_interval = {
                sequence: one for (of, sequence), one in sums.items() if of == engine and sequence
            }
            state.problems += check_engine(
                of_engine, by_interval, excused, tail[1] if tail else None
            )
            host.tails[engine] = (place, of_engine[-1])
        if state.final_sequence is not None and not own:
            state.problems += _uncovered(state.final_sequence, sums)
        state.problems.sort(key=lambda problem: problem.sequence)


def _excused(state: SourceState, decisions: Decisions) -> list[int]:
    """Sequences of a source whose content the ledger cannot have."""
    return sorted(
        {
            *state.findings.dead_letters,
            *(one for pair in state.findings.unproven for one in pair),
            *(one for pair in decisions.losses_of(state.source) for one in pair),
            *state.beyond_trust,
        }
    )


def _excused_before(
    host: _Host, place: int, tail: tuple[int, IntervalFacts] | None
) -> Iterable[int]:
    """Whether something is excused on earlier sources, since the engine's last interval there."""
    if tail is None:
        return []
    of_tail, last = tail
    since = [one for one in host.excused[of_tail] if of_tail < place and one > last.sequence]
    between = any(host.excused[of_tail + 1 : place])
    return [_EARLIER] if since or between else []


def _uncovered(final_sequence: int, sums: Mapping[tuple[str, int], PartsSum]) -> Iterator[Problem]:
    """Parts of a closed source that no interval of their engine covers."""
    for (engine, sequence), one in sorted(sums.items()):
        if sequence == 0:
            yield Problem(
                final_sequence,
                f"engine {engine}: {one.parts} parts with {one.gpu_ns} ns of GPU time lie in no"
                " interval, and the source is closed",
            )
