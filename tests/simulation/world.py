"""Models of what the sink stands on: the log, the group, the ledger, the dead letters.

Each answers late, not at all, or after it did what was asked; all of it drawn from the seed.
"""

import asyncio
import contextvars
import hashlib
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from schemas.tables import FLEET_EVENTS, USAGE_EVENTS, Table
from streams.clickhouse_sink import RowsRefusedError
from streams.decode import Decoded, Refused
from streams.patience import NotNowError
from tests.simulation.universe import Universe

Place = tuple[str, int]
Answer = TypeVar("Answer")
TOPIC = "usage.v1"
TABLES = {b"u": USAGE_EVENTS, b"f": FLEET_EVENTS, b"c": USAGE_EVENTS}
"""By the first letter of a value; `x` is refused by the decoder, `c` by a CHECK."""
_ROWS = pa.schema(
    [
        ("content_hash", pa.binary(16)),
        ("kafka_partition", pa.uint16()),
        ("kafka_offset", pa.uint64()),
        ("refusable", pa.bool_()),
    ]
)
WORLD_CONTEXT = contextvars.Context()
"""In which nobody lives: what happens here happens although its cause died."""
SESSION_S = 1.0
REBALANCE_S = 2.5


def hash_of(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()[:16]


def decode_model(
    topic: str, partition: int, offsets: Sequence[int], values: Sequence[bytes | None]
) -> Decoded:
    """As `streams.decode.decode`, of values that say by their first letter what they are."""
    rows: dict[bytes, list[tuple[bytes, int, int, bool]]] = {b"u": [], b"f": []}
    refused = []
    for offset, value in zip(offsets, values, strict=True):
        kind = (value or b"")[:1]
        if value is None or kind not in TABLES:
            refused.append(Refused(offset, value or b"", "record.malformed", "value: refused"))
        else:
            row = (hash_of(value), partition, offset, kind == b"c")
            rows[b"f" if kind == b"f" else b"u"].append(row)
    # A table's name and columns are hashed each time it is looked up: so it is a key only here.
    tables = {TABLES[kind]: _table(some) for kind, some in rows.items() if some}
    return Decoded(tables, refused)


def _table(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, one.type) for column, one in zip(columns, _ROWS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_ROWS)


@dataclass(slots=True)
class Weather:
    """How often servers misbehave at present; 0 is never, 1 is always."""

    broker_away: bool = False
    ledger_away: bool = False
    trouble: float = 0.0
    late_commits: bool = False


@dataclass(slots=True)
class Log:
    """One partition: its records by offset (not every offset has one), and where it begins."""

    records: dict[int, bytes | None] = field(default_factory=dict)
    start: int = 0
    end: int = 0

    def between(self, start: int, end: int) -> list[int]:
        return [offset for offset in range(start, end) if offset in self.records]


class Member(Protocol):
    """What the coordinator tells a worker."""

    number: int

    def revoke(self) -> None: ...
    def assign(self, generation: int, places: list[Place]) -> None: ...


class Ledger:
    """Tables by token, as ClickHouse keeps them: a token that was seen is skipped."""

    def __init__(self, universe: Universe, weather: Weather, token_window: int) -> None:
        self._universe, self._weather = universe, weather
        self._tokens: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=token_window))
        self.stored: Counter[tuple[str, int, int]] = Counter()
        """Rows by table, partition and offset, before identical copies collapse."""
        self.final: set[tuple[str, bytes]] = set()
        """Rows by table and content, after they did."""

    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        """As `ClickHouseSink.insert`, called in a thread."""
        luck = self._universe.luck
        if self._weather.ledger_away:
            raise NotNowError("away")
        plain = list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
        if any(row[3] for row in plain):
            raise RowsRefusedError("a CHECK")
        if luck.random() >= self._weather.trouble:
            self._apply(table.name, plain, token)
            return
        how = luck.choice(("lost", "answer lost", "late"))
        if how == "answer lost":
            self._apply(table.name, plain, token)
        elif how == "late":
            # The client has given up, the server has not: it comes in at any time later.
            self._universe.call_later(
                luck.random() * 5, self._apply, table.name, plain, token, context=WORLD_CONTEXT
            )
        raise NotNowError(how)

    def _apply(self, table: str, rows: Sequence[tuple[Any, ...]], token: str) -> None:
        seen = self._tokens[table]
        if token in seen:
            return
        seen.append(token)
        for content, partition, offset, _ in rows:
            self.stored[table, partition, offset] += 1
            self.final.add((table, content))


class Coordinator:
    """The broker: logs, the group's offsets and generations, the topic of dead letters."""

    def __init__(self, universe: Universe, weather: Weather) -> None:
        self.universe, self.weather = universe, weather
        self.logs: dict[Place, Log] = {}
        self.committed: dict[Place, tuple[int, str]] = {}
        self.generation = 0
        self.members: dict[int, Member] = {}
        self.dead_letters: dict[str, set[bytes]] = defaultdict(set)
        self.moved_back: set[Place] = set()
        """Partitions whose offset was moved by a commit that came late: other boundaries follow."""
        self._awaited: set[int] | None = None
        self._assignment: dict[int, list[Place]] = {}
        self._round = 0

    # The group.

    def join(self, member: Member) -> None:
        self.members[member.number] = member
        self._rebalance(rejoined=member.number)

    def rejoin(self, member: Member) -> None:
        if member.number not in self.members:
            self.join(member)
        elif self._awaited is None:
            member.assign(self.generation, self._assignment.get(member.number, []))
        else:
            self._awaited.discard(member.number)
            self._complete_if_all_are_here()

    def leave(self, number: int) -> None:
        """Of its own will, or because it was silent for too long."""
        if self.members.pop(number, None) is None:
            return
        if self._awaited is not None:
            self._awaited.discard(number)
        self._rebalance()

    def rebalance(self) -> None:
        """As when a member comes with other topics, or the broker restarts."""
        if self.members:
            self._rebalance()

    def add_partition(self) -> None:
        self.logs[TOPIC, len(self.logs)] = Log()
        self._rebalance()

    def _rebalance(self, rejoined: int | None = None) -> None:
        if self._awaited is None:
            self._awaited = set(self.members)
            self._round += 1
            for member in self.members.values():
                if member.number != rejoined:
                    self._tell(member.revoke)
            self._outside(REBALANCE_S, self._go_without_the_silent, self._round)
        if rejoined is not None:
            self._awaited.discard(rejoined)
        self._complete_if_all_are_here()

    def _go_without_the_silent(self, of_round: int) -> None:
        if self._awaited is not None and of_round == self._round:
            for number in self._awaited:
                self.members.pop(number, None)
            self._awaited.clear()
            self._complete_if_all_are_here()

    def _complete_if_all_are_here(self) -> None:
        if self._awaited:
            return
        self._awaited = None
        self.generation += 1
        numbers = sorted(self.members)
        self._assignment = {number: [] for number in numbers}
        for place in self.logs if numbers else ():
            self._assignment[self.universe.luck.choice(numbers)].append(place)
        for number in numbers:
            self._tell(partial(self._assign, self.members[number], self.generation))

    def _assign(self, member: Member, generation: int) -> None:
        current = generation == self.generation
        member.assign(generation, self._assignment.get(member.number, []) if current else [])

    # Requests. Each may be lost on its way, or its answer.

    async def commit(
        self, number: int, generation: int, place: Place, offset: int, metadata: str
    ) -> bool:
        """False if that member is not of that generation (any more)."""
        if self.weather.late_commits and self._unlucky():
            self._outside(
                self.universe.luck.random() * 2,
                self._commit_late,
                (number, generation, place, offset, metadata),
            )
            raise NotNowError("no answer")
        return await self._asked(lambda: self._commit(number, generation, place, offset, metadata))

    def _commit(
        self, number: int, generation: int, place: Place, offset: int, metadata: str
    ) -> bool:
        if number not in self.members or generation != self.generation:
            return False
        self.committed[place] = (offset, metadata)
        return True

    def _commit_late(self, commit: tuple[int, int, Place, int, str]) -> None:
        place = commit[2]
        before = self.committed.get(place)
        if self._commit(*commit) and before != self.committed[place]:
            self.moved_back.add(place)

    async def committed_of(self, place: Place) -> tuple[int, str] | None:
        return await self._asked(lambda: self.committed.get(place))

    async def log_start(self, place: Place) -> int:
        return await self._asked(lambda: self.logs[place].start)

    async def value_at(self, place: Place, offset: int) -> bytes:
        return await self._asked(lambda: self.logs[place].records.get(offset) or b"")

    async def take_dead_letters(self, records: Sequence[tuple[str, bytes]]) -> None:
        """All of them, or only the first few and no yes."""
        count = len(records)
        unlucky = self._unlucky()
        if unlucky:
            count = self.universe.luck.randint(0, count)

        def store() -> None:
            for key, value in records[:count]:
                self.dead_letters[key].add(value)

        await self._asked(store)
        if unlucky:
            raise NotNowError("no yes")

    async def _asked(self, do: Callable[[], Answer]) -> Answer:
        await asyncio.sleep(self.universe.latency_s())
        if self.weather.broker_away:
            raise NotNowError("away")
        unlucky = self._unlucky()
        if unlucky and self.universe.luck.random() < 0.5:
            raise NotNowError("lost")
        result = do()
        await asyncio.sleep(self.universe.latency_s())
        if unlucky:
            raise NotNowError("answer lost")
        return result

    def _unlucky(self) -> bool:
        return self.weather.trouble > 0 and self.universe.luck.random() < self.weather.trouble

    def _tell(self, what: Callable[[], None]) -> None:
        self._outside(self.universe.latency_s(), what)

    def _outside(self, delay_s: float, what: Callable[..., None], *args: Any) -> None:
        self.universe.call_later(delay_s, what, *args, context=WORLD_CONTEXT)


def seeded(seed: int) -> random.Random:
    """The luck of one schedule; the product's own jitter is of the same seed."""
    random.seed(seed)
    return random.Random(seed)
