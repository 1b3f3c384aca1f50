"""Work of one key keeps its order, other keys overtake it, and only so much is under way."""

import asyncio

from streams.turns import Turns


def test_work_of_one_key_is_done_in_its_order_while_another_key_overtakes() -> None:
    done: list[str] = []

    async def run() -> None:
        turns, gate = Turns(4), asyncio.Event()

        async def wait_then(name: str) -> None:
            await gate.wait()
            done.append(name)

        async def at_once(name: str) -> None:
            done.append(name)

        await turns.start("a", lambda: wait_then("a1"))
        await turns.start("a", lambda: at_once("a2"))
        await turns.start("b", lambda: at_once("b1"))
        await asyncio.sleep(0.01)
        assert done == ["b1"]
        gate.set()
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert done == ["b1", "a1", "a2"]


def test_no_more_than_the_bound_is_under_way() -> None:
    async def run() -> None:
        turns, gate = Turns(2), asyncio.Event()

        async def wait() -> None:
            await gate.wait()

        await turns.start("a", wait)
        await turns.start("a", wait)
        third = asyncio.ensure_future(turns.start("b", wait))
        await asyncio.sleep(0.01)
        assert not third.done()
        gate.set()
        await asyncio.wait_for(third, 5)

    asyncio.run(run())


def test_work_that_fails_lets_the_next_one_in() -> None:
    done: list[str] = []

    async def run() -> None:
        turns = Turns(1)

        async def fail() -> None:
            raise ValueError("this one only")

        async def succeed() -> None:
            done.append("next")

        await turns.start("a", fail)
        await turns.start("a", succeed)
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert done == ["next"]


def test_stop_ends_what_is_under_way_and_what_waits_for_its_turn() -> None:
    ended: list[str] = []

    async def run() -> None:
        turns = Turns(2)

        async def for_ever(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)

        await turns.start("a", lambda: for_ever("a1"))
        await turns.start("a", lambda: for_ever("a2"))
        await asyncio.sleep(0.01)
        await turns.stop()

    asyncio.run(run())
    assert ended == ["a1"]
