"""An engine's books: marks for recovery, failing open for serving and loud for billing."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import pytest

from inference.attribution_models import attribution_model
from inference.engine_account import Interval
from inference.engine_books import EngineBooks
from inference.engine_meter import EngineMeter
from inference.engine_records import (
    ENGINE_MARK,
    ENGINE_PART,
    ENGINE_SPAN,
    ENGINE_STOP,
    MarkRecord,
    PartRecord,
    RequestFacts,
    SpanRecord,
)
from inference.settings import InferenceSettings
from inference.wire import Record
from schemas.errors import SpoolError
from schemas.ids import derived_uuid, uuid7
from schemas.units import NS_PER_HOUR, NS_PER_MS, NS_PER_S
from tests.support.engine_boots import engine_boot
from tests.support.engine_frames import unpacked
from tests.support.host_history import PROFILE, START_NS

ENGINE = derived_uuid("engine", "books")
ONE = uuid7(START_NS // NS_PER_MS, 1)


class Disk:
    """Keeps what is appended, or refuses it."""

    def __init__(self) -> None:
        self.frames: list[Record] = []
        self.records: list[Record] = []
        self.full = False
        self.holds = 1_000_000

    def append(self, records: Sequence[Record]) -> bool:
        if self.full or len(records) > self.holds:
            raise SpoolError("the disk is full")
        self.frames += records
        for record in records:
            self.records += unpacked(record)
        return True


class Driver:
    """An engine with one request at a time, and a clock that it sets."""

    def __init__(self, **settings: object) -> None:
        self.now_ns = START_NS
        self.generated = 0
        self.unreadable = False
        self.disk = Disk()
        boot = engine_boot(ENGINE, start_ns=START_NS)
        meter = EngineMeter(
            gpus=1,
            profile=PROFILE,
            model=attribution_model("equal"),
            start_ns=START_NS,
            stall_cap_ns=NS_PER_S,
            interval_ns=NS_PER_S,
        )
        self.books = EngineBooks(
            boot,
            meter,
            self.disk,
            InferenceSettings.model_validate({"interval_s": 1, **settings}),
            now_ns=lambda: self.now_ns,
            generated=self.generated_by,
        )
        self.books.started()

    def generated_by(self, _: str) -> int:
        if self.unreadable:
            raise AttributeError("no such field")
        return self.generated

    def step(self, name: str, tokens: int, computed: int, *, ms: int = 10) -> None:
        step = {name: tokens}
        self.books.steps.append((self.now_ns, step, [name], [computed], ()))
        self.now_ns += ms * NS_PER_MS
        self.books.steps.append((self.now_ns, step))

    def serve(self, name: str = "cmpl-1", *, prompt: int = 5, generated: int = 3) -> None:
        self.books.add(RequestFacts(ONE, name, prompt))
        self.step(name, prompt, 0)
        for number in range(generated - 1):
            self.step(name, 1, prompt + number)
        self.books.finish(name, generated, "length")
        self.books.write_out()

    def fail(self) -> None:
        """What a request generated cannot come out of what was scheduled."""
        self.books.add(RequestFacts(ONE, "broken", 5))
        self.step("broken", 5, 0)
        self.books.finish("broken", 9, "length")
        self.books.write_out()

    def parts(self) -> list[PartRecord]:
        found = [one for one in self.disk.records if one.kind == ENGINE_PART]
        return [msgspec.json.decode(one.data, type=PartRecord) for one in found]

    def intervals(self) -> list[Interval]:
        found = [one for one in self.disk.records if one.kind == ENGINE_SPAN]
        return [msgspec.json.decode(one.data, type=SpanRecord).interval for one in found]

    def marks(self) -> list[MarkRecord]:
        found = [one for one in self.disk.records if one.kind == ENGINE_MARK]
        return [msgspec.json.decode(one.data, type=MarkRecord) for one in found]

    def kinds(self) -> list[str]:
        return [one.kind for one in self.disk.records]


def missing_ns(driver: Driver) -> int:
    """Attributed, but in no part; 0 where the books close."""
    attributed = sum(one.attributed_ns for one in driver.intervals())
    return attributed - sum(one.part.gpu_ns for one in driver.parts())


def test_books_of_an_engine_that_stops_in_order_close() -> None:
    driver = Driver()
    driver.serve()
    driver.books.stop()
    driver.books.stop()
    assert driver.kinds()[-1] == ENGINE_STOP
    assert driver.kinds().count(ENGINE_STOP) == 1
    (part,) = driver.parts()
    assert (part.facts.request, part.facts.finish_reason) == (ONE, "length")
    assert part.part.generated_tokens == 3
    assert missing_ns(driver) == 0


def test_an_interval_shares_its_frame_with_a_mark_as_late_as_its_end() -> None:
    driver = Driver()
    driver.books.add(RequestFacts(ONE, "long", 5))
    driver.step("long", 5, 0, ms=900)
    for number in range(4):
        driver.step("long", 1, 5 + number, ms=900)
        driver.books.write_out()
    frames = [[one.kind for one in unpacked(frame)] for frame in driver.disk.frames]
    with_interval = [kinds for kinds in frames if ENGINE_SPAN in kinds]
    assert len(with_interval) == 4
    assert all(kinds[-1] == ENGINE_MARK for kinds in with_interval)
    for span, mark in zip(driver.intervals(), driver.marks()[1:], strict=True):
        assert mark.unix_ns >= span.end_ns == mark.so_far.start_ns
        assert sum(one.used.gpu_ns for one in mark.open) >= span.in_flight_end_ns


def test_engine_that_stops_with_open_requests_leaves_them_to_the_sidecar() -> None:
    driver = Driver()
    driver.books.add(RequestFacts(ONE, "open", 5))
    driver.step("open", 5, 0)
    driver.generated = 1
    driver.books.stop()
    assert ENGINE_STOP not in driver.kinds()
    (left,) = driver.marks()[-1].open
    assert (left.used.gpu_ns, left.used.generated_tokens) == (10 * NS_PER_MS, 1)


def test_failure_of_the_accounting_is_counted_and_books_do_not_close() -> None:
    driver = Driver()
    driver.serve("before")
    driver.fail()
    driver.serve("after", generated=7)
    driver.now_ns += 2 * NS_PER_S
    driver.books.mark()
    driver.books.stop()
    assert driver.books.faults == 1
    assert "cannot have made" in driver.marks()[-1].fault
    generated = {one.facts.engine_request: one.part.generated_tokens for one in driver.parts()}
    assert generated == {"before": 3, "broken": 9, "after": 7}
    assert [one.part.ordinal for one in driver.parts()] == [1, 2, 3]
    assert missing_ns(driver) > 0
    assert all(
        one.part.decode_scheduled_tokens == max(one.part.generated_tokens - 1, 0)
        for one in driver.parts()
    )


def test_intervals_after_a_failure_still_join_and_end_at_the_hour() -> None:
    driver = Driver()
    driver.fail()
    driver.now_ns = START_NS + NS_PER_HOUR + NS_PER_S
    driver.books.mark()
    driver.books.stop()
    intervals = driver.intervals()
    assert START_NS + NS_PER_HOUR in [one.end_ns for one in intervals]
    for before, after in pairwise(intervals):
        assert (before.end_ns, before.ordinal_end) == (after.start_ns, after.ordinal_start)
    assert all(one.owned_ns == one.end_ns - one.start_ns for one in intervals)


def test_request_that_was_finished_but_in_flight_at_a_failure_has_its_part() -> None:
    driver = Driver()
    driver.books.add(RequestFacts(ONE, "late", 5))
    driver.books.steps.append((driver.now_ns, {"late": 5}, [], [], [("late", 0)]))
    driver.books.finish("late", 0, "abort")
    driver.books.failed("schedule", "a hook broke")
    assert [one.facts.engine_request for one in driver.parts()] == ["late"]


@pytest.mark.parametrize("hook", ["step_done", "finish", "preempted", "scheduled", "unlike"])
def test_no_hook_raises_into_the_engine(hook: str) -> None:
    driver = Driver()
    steps, now_ns = driver.books.steps, driver.now_ns
    calls: dict[str, Callable[[], None]] = {
        "step_done": lambda: steps.append((now_ns, {})),
        "finish": lambda: driver.books.finish("nobody", 1, "stop"),
        "preempted": lambda: driver.books.preempted("nobody", 3),
        "scheduled": lambda: steps.append((now_ns, {"nobody": 1}, ["nobody"], [0], ())),
        "unlike": lambda: steps.append((now_ns, {"nobody": 1}, [], [], ())),
    }
    calls[hook]()
    driver.books.write_out()
    assert driver.books.faults == 1


def test_engine_whose_tokens_cannot_be_read_goes_on_and_its_books_do_not_close() -> None:
    driver = Driver()
    driver.books.add(RequestFacts(ONE, "open", 5))
    driver.step("open", 5, 0)
    driver.unreadable = True
    driver.books.mark()
    driver.books.mark()
    driver.books.stop()
    assert "no such field" in driver.books.fault
    assert [one.facts.engine_request for one in driver.parts()] == ["open"]
    assert missing_ns(driver) > 0


def test_steps_that_end_out_of_order_are_a_fault() -> None:
    driver = Driver()
    first: dict[str, int] = {}
    driver.books.steps.append((driver.now_ns, first, [], [], ()))
    driver.books.steps.append((driver.now_ns, {}))
    driver.books.steps.append((driver.now_ns, first))
    driver.books.write_out()
    assert driver.books.faults == 1
    assert "out of order" in driver.books.fault
    assert not driver.books.steps


def test_what_the_disk_refuses_is_written_in_order_when_it_is_back() -> None:
    driver = Driver()
    driver.disk.full = True
    driver.serve("one")
    driver.serve("two")
    assert driver.parts() == []
    driver.disk.full = False
    driver.books.mark()
    driver.books.stop()
    assert [one.part.ordinal for one in driver.parts()] == [1, 2]
    assert driver.books.faults == 0
    assert missing_ns(driver) == 0


def test_more_than_the_disk_takes_at_once_is_written_in_portions() -> None:
    driver = Driver()
    driver.disk.holds = 100
    driver.disk.full = True
    for number in range(150):
        driver.serve(f"number {number}")
    driver.disk.full = False
    driver.books.mark()
    assert [one.part.ordinal for one in driver.parts()] == list(range(1, 151))
    assert driver.books.faults == 0


def test_records_beyond_the_bound_are_dropped_and_counted() -> None:
    driver = Driver(spool_unwritten_records=3)
    driver.disk.full = True
    for number in range(5):
        driver.serve(f"number {number}")
    assert driver.books.faults > 0
    assert "the disk is full" in driver.books.fault
