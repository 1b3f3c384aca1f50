"""Seeded histories of one host: doors, engines, requests, deaths, as their spools would hold them.

Engines keep their books with the real `EngineBooks`; only the models and the clock are not there.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.attribution import EngineProfile
from inference.attribution_models import attribution_model
from inference.door_records import (
    DOOR_BOOT,
    DOOR_CLOSE,
    DOOR_MARK,
    DOOR_OPEN,
    ClientUsage,
    DoorBoot,
    DoorClose,
    DoorEnding,
    DoorMark,
    DoorOpen,
    carried,
)
from inference.engine_books import EngineBooks
from inference.engine_meter import EngineMeter
from inference.engine_records import ENGINE_STOP, RequestFacts
from inference.settings import InferenceSettings
from inference.wire import THE_SOURCE, Record, to_json
from schemas.ids import derived_entropy, derived_uuid, uuid7
from schemas.units import NS_PER_MS, NS_PER_S
from tests.support.engine_boots import engine_boot

START_NS = 1_790_812_800 * NS_PER_S
"""2026-10-01T00:00:00Z."""
MONO_OFFSET_NS = 1_700_000_000 * NS_PER_S
PROFILE = EngineProfile(1_000_000, 1_024, 2_000_000, 512, 10**9, 10**12, 0)


@dataclass
class Written:
    """A record, and when its process wrote it."""

    at_ns: int
    process: str
    record: Record


class _Sink:
    """What an engine writes, with the time at which it does."""

    def __init__(self, history: "HostHistory", engine: str) -> None:
        self.history, self.engine = history, engine

    def append(self, records: Sequence[Record]) -> bool:
        history = self.history
        if self.engine not in history.died_at_ns:
            history.written += [Written(history.now_ns, self.engine, one) for one in records]
            history.last_batch[self.engine] = len(records)
        return True


@dataclass
class _Running:
    """A client request inside the host."""

    opened: DoorOpen
    door: str
    left: dict[str, int]
    engine_of: dict[str, str]
    requests: int
    generated: dict[str, int] = field(default_factory=dict)
    aborted: bool = False


class HostHistory:
    """Plays a history; `written` and `died_at_ns` are what a sidecar can see of it."""

    def __init__(self, seed: int, *, requests: int = 12, engines: int = 2, doors: int = 2) -> None:
        self.random = random.Random(seed)
        self.now_ns = START_NS + self.random.randrange(NS_PER_S)
        self.written: list[Written] = []
        self.died_at_ns: dict[str, int] = {}
        self.last_batch: dict[str, int] = {}
        self.opened: dict[str, DoorOpen] = {}
        self.endings: dict[str, DoorEnding] = {}
        self._requests = requests
        self._running: dict[str, _Running] = {}
        self._in_step: dict[str, dict[str, int]] = {}
        self.engines = [derived_uuid("engine", str(seed), str(one)) for one in range(engines)]
        self.doors = [derived_uuid("door", str(seed), str(one)) for one in range(doors)]
        self.books = {engine: self._boot(engine) for engine in self.engines}
        for door in self.doors:
            boot = DoorBoot(door, "host", 1, self.now_ns, self.now_ns - MONO_OFFSET_NS)
            self._write(door, DOOR_BOOT, door, to_json(boot))

    def play(self, *, kills: int = 0) -> None:
        """Until every request has ended; `kills` processes die at random moments."""
        victims = self.random.sample([*self.engines, *self.doors], kills)
        for number in range(self._requests * 40):
            self.now_ns += self.random.randrange(1, 40) * NS_PER_MS
            self._something(number)
            if victims and self.random.random() < 0.02:
                self.kill(victims.pop())
            if len(self.opened) == self._requests and not self._running:
                break
        for victim in victims:
            self.kill(victim)
        self.now_ns += NS_PER_S
        for request in list(self._running):
            self._leave(request)
        for engine in self._living(self.engines):
            self._step(engine)
            self.books[engine].stop()
        self.now_ns += 2 * NS_PER_S
        for process in self._living([*self.engines, *self.doors]):
            self.kill(process)

    def kill(self, process: str) -> None:
        """Nothing that it would write after this exists."""
        self.died_at_ns.setdefault(process, self.now_ns)
        self._tear(process)
        for running in list(self._running.values()):
            if running.door == process:
                self._running.pop(running.opened.id)
            elif process in running.engine_of.values():
                self._close(running, "failed", 500)

    def _tear(self, process: str) -> None:
        """The last batch of a dying engine may reach the disk in part; its first record always."""
        torn = self.random.randrange(max(self.last_batch.pop(process, 0), 1))
        mine = [at for at, one in enumerate(self.written) if one.process == process]
        for at in reversed(mine[len(mine) - torn :]):
            if self.written[at].record.kind != ENGINE_STOP:
                del self.written[at]

    def _living(self, processes: list[str]) -> list[str]:
        return [one for one in processes if one not in self.died_at_ns]

    def _something(self, number: int) -> None:
        dice = self.random.random()
        if dice < 0.25 and len(self.opened) < self._requests:
            self._open(number)
        elif dice < 0.35:
            for engine in self.engines:
                self.books[engine].mark()
            for door in self._living(self.doors):
                mark = DoorMark(self.now_ns, self.now_ns - MONO_OFFSET_NS)
                self._write(door, DOOR_MARK, door, to_json(mark))
        elif dice < 0.42 and self._running:
            self._leave(self.random.choice(sorted(self._running)))
        else:
            for engine in self._living(self.engines):
                self._step(engine)

    def _open(self, number: int) -> None:
        living = self._living(self.doors)
        if not living:
            return
        door = self.random.choice(living)
        event_id = uuid7(self.now_ns // NS_PER_MS, derived_entropy(door, str(number)))
        opened = DoorOpen(
            id=event_id,
            tenant=self.random.choice(["acme", "bolt"]),
            project="main",
            api_key="key-1",
            endpoint="v1/completions",
            admitted_unix_ns=self.now_ns,
            admitted_mono_ns=self.now_ns - MONO_OFFSET_NS,
        )
        self.opened[event_id] = opened
        self._write(door, DOOR_OPEN, event_id, to_json(opened))
        engines = self._living(self.engines)
        running = _Running(opened, door, {}, {}, 0)
        if self.random.random() < 0.15 or not engines:
            self._close(running, "refused", 429)
            return
        self._running[event_id] = running
        for sample in range(self.random.choice([1, 1, 1, 2, 3])):
            engine = self.random.choice(engines)
            name = f"{sample}_cmpl-{carried(event_id)}-0"
            running.left[name] = self.random.randrange(1, 8)
            running.engine_of[name] = engine
            running.generated[name] = 0
            running.requests += 1
            prompt = self.random.randrange(1, 30)
            self.books[engine].add(RequestFacts(event_id, name, prompt))

    def _step(self, engine: str) -> None:
        """End the step in flight, if any, and launch the next one."""
        books = self.books[engine]
        mine = [
            (running, name)
            for running in self._running.values()
            for name in running.left
            if running.engine_of[name] == engine
        ]
        if engine in self._in_step:
            names = self._in_step.pop(engine)
            books.steps.append((self.now_ns, names))
            for running, name in mine:
                if name in names and running.left[name]:
                    running.generated[name] += 1
                    running.left[name] -= 1
                    if not running.left[name]:
                        del running.left[name]
                        books.finish(name, running.generated[name], "length")
                        self._answer_if_done(running)
            # Steps may wait for the next one, the next mark, or until somebody finishes.
            if self.random.random() < 0.5:
                books.write_out()
            return
        ran = [name for _, name in mine]
        computed, tokens = [], []
        for running, name in mine:
            generated = running.generated[name]
            prompt = books.facts_of(name).prompt_tokens
            if not generated:
                books.cache_read(name, 0)
            computed.append(prompt + generated - 1 if generated else 0)
            tokens.append(1 if generated else prompt)
        step = dict(zip(ran, tokens, strict=True))
        books.steps.append((self.now_ns, step, ran, computed, ()))
        self._in_step[engine] = step

    def _answer_if_done(self, running: _Running) -> None:
        if not running.left and running.opened.id in self._running:
            self._close(running, "finished", 200)

    def _leave(self, request: str) -> None:
        """The client hangs up: the door says so and the engines are told."""
        running = self._running[request]
        for name in list(running.left):
            engine = running.engine_of[name]
            self.books[engine].finish(name, running.generated[name], "abort")
            self.books[engine].write_out()
            del running.left[name]
        self._close(running, "aborted", 499)

    def _close(self, running: _Running, ending: DoorEnding, status: int) -> None:
        request = running.opened.id
        self._running.pop(request, None)
        generated = sum(running.generated.values())
        usage = ClientUsage(input_tokens=5, output_tokens=generated)
        close = DoorClose(
            id=request,
            http_status=status,
            ending=ending,
            finish_reason="length" if ending == "finished" else "",
            delivered_tokens=generated if ending == "finished" else generated // 2,
            counted=True,
            usage=usage if ending == "finished" else None,
            closed_unix_ns=self.now_ns,
            closed_mono_ns=self.now_ns - MONO_OFFSET_NS,
            engine_requests=running.requests,
        )
        if running.door not in self.died_at_ns:
            self.endings[request] = ending
            self._write(running.door, DOOR_CLOSE, request, to_json(close))

    def _write(self, process: str, kind: str, event_id: str, data: bytes) -> None:
        self.written.append(Written(self.now_ns, process, Record(kind, event_id, THE_SOURCE, data)))

    def _boot(self, engine: str) -> EngineBooks:
        boot = engine_boot(
            engine,
            start_ns=self.now_ns,
            gpus=2,
            attribution_model="fixed_marginal.2",
            unix_less_mono_ns=MONO_OFFSET_NS,
        )
        meter = EngineMeter(
            gpus=boot.gpus,
            profile=PROFILE,
            model=attribution_model("fixed_marginal"),
            start_ns=self.now_ns,
            stall_cap_ns=NS_PER_S,
            interval_ns=NS_PER_S,
        )
        books = EngineBooks(
            boot,
            meter,
            _Sink(self, engine),
            InferenceSettings(),
            now_ns=lambda: self.now_ns,
            generated=self._generated,
        )
        books.started()
        return books

    def _generated(self, name: str) -> int:
        return next(
            (one.generated[name] for one in self._running.values() if name in one.generated), 0
        )
