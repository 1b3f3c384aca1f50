"""One worker in the simulation: the real sink and its turns, driven as Faust drives them."""

import asyncio
import contextvars
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from streams.group import FencedError
from streams.record_batch import RecordBatch
from streams.settings import StreamSettings
from streams.sink import Sink
from streams.turns import Turns
from tests.simulation.universe import LIFE, Universe
from tests.simulation.world import SESSION_S, Coordinator, Ledger, Place, decode_model

_TICK_S = 0.2
_SETTLE_S = 0.4
_POLL_S = 0.2
_WATCH_EVERY = 4
_FETCH_MAX = 6


@dataclass(frozen=True, slots=True)
class Build:
    """Of what a worker is made; a planted fault replaces one of these."""

    sink: type[Sink] = Sink
    ledger: Any = None
    """Wraps the model ledger, where set."""
    group: Any = None
    outbox: Any = None


class SimulatedGroup:
    """As `streams.group.Group`, on the model of the broker."""

    def __init__(self, life: "Life") -> None:
        self._life = life
        self._broker = life.broker

    @property
    def generation(self) -> int:
        return self._life.generation

    @property
    def settled(self) -> bool:
        return not self._life.rebalancing

    async def commit(self, topic: str, partition: int, offset: int, metadata: str) -> None:
        life, place, generation = self._life, (topic, partition), self._life.generation
        if life.moved_on or place not in life.positions:
            raise FencedError("not ours")
        if not await self._broker.commit(life.number, generation, place, offset, metadata):
            raise FencedError("another generation")

    async def committed(self, topic: str, partition: int) -> tuple[int, str] | None:
        return await self._broker.committed_of((topic, partition))

    async def log_start(self, topic: str, partition: int) -> int:
        return await self._broker.log_start((topic, partition))

    async def go_back(self, topic: str, partition: int, offset: int) -> None:
        if (topic, partition) in self._life.positions:
            self._life.positions[topic, partition] = offset

    async def reread(self, topic: str, partition: int, offset: int) -> bytes:
        return await self._broker.value_at((topic, partition), offset)


class SimulatedOutbox:
    """As `streams.group.Outbox`."""

    def __init__(self, life: "Life") -> None:
        self._broker = life.broker

    async def send(self, records: Sequence[tuple[str, bytes]]) -> None:
        await self._broker.take_dead_letters(records)


class Life:
    """A worker from its start to its end, whatever that is."""

    def __init__(
        self,
        number: int,
        universe: Universe,
        broker: Coordinator,
        ledger: Ledger,
        settings: StreamSettings,
        build: Build,
    ) -> None:
        self.number, self.universe, self.broker = number, universe, broker
        self.generation = 0
        self.rebalancing = True
        self.moved_on = False
        self.positions: dict[Place, int] = {}
        self.alive = True
        self.frozen = False
        self._leaving = False
        self._assignments = 0
        self._context = contextvars.copy_context()
        self._context.run(LIFE.set, number)
        group = SimulatedGroup(self)
        written: Any = build.ledger(ledger, self) if build.ledger else ledger
        outbox = SimulatedOutbox(self)
        self.sink = build.sink(
            build.group(group) if build.group else group,
            written,
            build.outbox(outbox) if build.outbox else outbox,
            settings,
            decoder=decode_model,
        )
        self._turns = Turns(4)
        universe.enter(number, self._boot)

    # What the coordinator tells, through the next heartbeat.

    def revoke(self) -> None:
        self._start(self._hand_over)

    def assign(self, generation: int, places: list[Place]) -> None:
        self._start(partial(self._take_over, generation, places))

    # What happens to it from outside.

    def die(self) -> None:
        """kill -9: the group notices later."""
        self.alive = False
        self.universe.kill(self.number)
        self._outside(SESSION_S, self.broker.leave, self.number)

    def freeze(self, for_s: float) -> None:
        """SIGSTOP for a while; if it is long, the group goes on without it."""
        if self.frozen:
            return
        self.frozen = True
        self.universe.pause(self.number)
        if for_s > SESSION_S:
            self._outside(SESSION_S, self._expelled)
        self._outside(for_s, self._thaw)

    def terminate(self) -> None:
        """SIGTERM."""
        if not self._leaving:
            self._leaving = True
            self._start(self._end)

    def _thaw(self) -> None:
        self.frozen = False
        self.universe.go_on(self.number)
        if self.alive and self.number not in self.broker.members and not self._leaving:
            # Its next heartbeat is refused: what it has is revoked, and it joins again.
            self.revoke()

    def _expelled(self) -> None:
        if self.alive:
            self.broker.leave(self.number)

    def _outside(self, delay_s: float, what: Any, *args: Any) -> None:
        self.universe.call_later(delay_s, what, *args, context=contextvars.Context())

    def _start(self, work: Any) -> None:
        self.universe.call_soon(lambda: self.universe.create_task(work()), context=self._context)

    # What it does.

    async def _boot(self) -> None:
        self.broker.join(self)
        self.universe.create_task(self._fetch())
        self.universe.create_task(self._every(_TICK_S, self._tick))
        self.universe.create_task(self._every(_SETTLE_S, self._settle))

    async def _every(self, wait_s: float, work: Any) -> None:
        count = 0
        while self.alive:
            await asyncio.sleep(wait_s)
            count += 1
            await work(count)

    async def _tick(self, _count: int) -> None:
        if self.sink.failure is None:
            self.sink.tick()

    async def _settle(self, count: int) -> None:
        await self.sink.settle()
        if count % _WATCH_EVERY == 0 and not self.rebalancing:
            for place in list(self.positions):
                await self._turns.start(place, partial(self.sink.watch_retention, place))

    async def _hand_over(self) -> None:
        if self._leaving:
            self.moved_on = True
            return
        self.rebalancing = True
        await self.sink.give_up()
        self.positions = {}
        self.broker.rejoin(self)

    async def _take_over(self, generation: int, places: list[Place]) -> None:
        if self._leaving or generation < self.generation:
            return
        self._assignments += 1
        mine = self._assignments
        self.generation = generation
        positions = {}
        for place in places:
            found = await self._ask(partial(self.broker.committed_of, place))
            start = await self._ask(partial(self.broker.log_start, place))
            positions[place] = start if found is None else found[0]
        if mine == self._assignments and generation == self.broker.generation:
            self.positions = positions
            self.rebalancing = False

    async def _ask(self, question: Any) -> Any:
        while True:
            try:
                return await question()
            except Exception:
                await asyncio.sleep(0.2)

    async def _fetch(self) -> None:
        luck = self.universe.luck
        while not self._leaving:
            await asyncio.sleep(_POLL_S * luck.random())
            if self.rebalancing or not self.positions or self.broker.weather.broker_away:
                continue
            place = luck.choice(list(self.positions))
            batch = self._next_batch(place)
            if batch is None:
                await asyncio.sleep(_POLL_S)
                continue
            # On its way it may outlive a rebalance; it is stamped only when it arrives.
            await asyncio.sleep(self.universe.latency_s())
            work = partial(self._take, batch, self.generation)
            await self._turns.start(place, work)

    def _next_batch(self, place: Place) -> RecordBatch | None:
        log = self.broker.logs[place]
        position = max(self.positions[place], log.start)  # out of range starts at the earliest
        end = min(log.end, position + self.universe.luck.randint(1, _FETCH_MAX))
        offsets = log.between(position, end)
        if not offsets:
            # Nothing but offsets without records: aiokafka passes over them.
            self.positions[place] = max(end, position)
            return None
        self.positions[place] = end
        values = [log.records[offset] for offset in offsets]
        return RecordBatch(*place, position, end, log.end, offsets, values)

    async def _take(self, batch: RecordBatch, generation: int) -> None:
        if self.sink.failure is None:
            await self.sink.take(batch, generation)

    async def _end(self) -> None:
        await self._turns.stop()
        await self.sink.close()
        self.alive = False
        self.universe.kill(self.number)
        self.broker.leave(self.number)
