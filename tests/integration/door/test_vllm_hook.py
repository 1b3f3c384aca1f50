"""The hook in vLLM's engine client, on a stand-in with vLLM's shapes; the real one is elsewhere."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from inference.door_delivery import CURRENT, Delivery
from inference.door_records import carried
from inference.vllm_door import (
    at_shutdown,
    check_hooks,
    counting,
    counting_queue,
    remember_parsers,
    telling,
)
from schemas.errors import SettingsError

ID = carried("019a0000-0000-7000-8000-000000000001")


@dataclass
class Sample:
    token_ids: list[int]


@dataclass
class Output:
    outputs: Any


@dataclass
class Parameters:
    n: int = 1


class Queue:
    """As vLLM's `RequestOutputCollector`."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Output] = asyncio.Queue()

    async def get(self) -> Output:
        return await self.waiting.get()

    def get_nowait(self) -> Output | None:
        return None if self.waiting.empty() else self.waiting.get_nowait()


class Parser:
    """As vLLM's: one that does not call its `__init__` is a parser, too."""

    def __init__(self, *tools: str) -> None: ...

    def parse_delta(self, delta_text: str, delta_token_ids: list[int], *, finished: bool) -> str:
        return f"{delta_text}{finished}"

    def count_reasoning_tokens(self, token_ids: list[int]) -> int:
        return sum(one < 10 for one in token_ids)


@dataclass
class Client:
    """As vLLM's `AsyncLLM`; keeps the ids that it was given."""

    names: list[str] = field(default_factory=list)

    async def add_request(
        self, request_id: str, prompt: object, params: object, arrival_time: float | None = None
    ) -> Queue:
        self.names.append(request_id)
        queue = Queue()
        queue.waiting.put_nowait(Output([Sample([1, 2]), Sample([3])]))
        queue.waiting.put_nowait(Output([Sample([4])]))
        return queue

    def shutdown(self, timeout: float | None = None) -> str:
        return f"drained within {timeout}"


ADD = counting(Client.add_request, counting_queue(Queue))


def through_the_door(*names: str, params: object = None) -> tuple[Client, Delivery]:
    """Engine requests of one client request, their outputs taken both ways."""

    async def story() -> tuple[Client, Delivery]:
        client, delivery = Client(), Delivery("v1/completions", 1, ID)
        delivery.started(200, b"text/event-stream")
        token = CURRENT.set(delivery)
        for name in names:
            queue = await ADD(client, name, "prompt", params=params or Parameters())
            assert queue.get_nowait() is not None
            assert await queue.get() is not None
            assert queue.get_nowait() is None
        CURRENT.reset(token)
        delivery.sent(b"x")
        delivery.gone = True
        return client, delivery

    return asyncio.run(story())


def test_tokens_are_counted_as_they_leave_the_queue() -> None:
    _, delivery = through_the_door("cmpl-1")
    assert delivery.read_end().delivered_tokens == 4


def test_engine_requests_are_counted_with_their_samples() -> None:
    _, delivery = through_the_door("a", "b", params=Parameters(n=3))
    assert delivery.read_end().engine_requests == 6


def test_engine_request_gets_the_id_unless_it_has_it() -> None:
    client, _ = through_the_door("resp_1", f"cmpl-{ID}-0")
    assert client.names == [f"resp_1-{ID}", f"cmpl-{ID}-0"]


def test_embedding_has_no_tokens_to_deliver() -> None:
    async def story() -> int:
        queue = counting_queue(Queue)()
        queue.delivery = Delivery("v1/embeddings", 1)
        queue.delivery.engine_called(1)
        queue.waiting.put_nowait(Output(object()))
        await queue.get()
        queue.delivery.gone = True
        return int(queue.delivery.read_end().delivered_tokens)

    assert asyncio.run(story()) == 0


def test_parsers_of_a_request_tell_what_of_it_was_thinking() -> None:
    class OfVllm(Parser): ...

    class EngineOfVllm(OfVllm):
        def __init__(self, *, vocabulary: int) -> None: ...

    remember_parsers(OfVllm)
    delivery = Delivery("v1/chat/completions", 2, ID)
    token = CURRENT.set(delivery)
    first, second = OfVllm("tool"), EngineOfVllm(vocabulary=3)
    CURRENT.reset(token)
    before = OfVllm()
    for parser in (first, second, before):
        assert (
            parser.parse_delta(delta_text="a", delta_token_ids=[1, 2, 30], finished=True) == "aTrue"
        )
        assert parser.parse_delta("b", [3], finished=False) == "bFalse"
    assert [thought() for thought in delivery.thinking] == [3, 3]


def test_what_did_not_come_through_the_door_is_left_alone() -> None:
    async def story() -> tuple[list[str], type]:
        client = Client()
        queue = await ADD(client, "warm-up", "prompt", Parameters())
        return client.names, type(queue)

    assert asyncio.run(story()) == (["warm-up"], Queue)


def test_vllm_without_the_hooks_is_refused_by_version_and_name() -> None:
    def add_request(request: str) -> None: ...

    class Bare: ...

    check_hooks("0.32.0", Client.add_request, Queue, Client, Parser)
    with pytest.raises(
        SettingsError, match=r"vLLM 9\.9 has no AsyncLLM\.add_request\(request_id\)"
    ):
        check_hooks("9.9", add_request, Queue, Client, Parser)
    with pytest.raises(SettingsError, match=r"vLLM 9\.9 has no Bare\.get:"):
        check_hooks("9.9", Client.add_request, Bare, Client, Parser)
    with pytest.raises(SettingsError, match=r"vLLM 9\.9 has no Bare\.shutdown:"):
        check_hooks("9.9", Client.add_request, Queue, Bare, Parser)
    wanted = r"vLLM 9\.9 has no Bare\.parse_delta\(delta_text, delta_token_ids\):"
    with pytest.raises(SettingsError, match=wanted):
        check_hooks("9.9", Client.add_request, Queue, Client, Bare)


def test_door_is_told_before_the_engine_drains() -> None:
    told: list[str] = []
    at_shutdown(lambda: told.append("closing"))
    drained = telling(Client.shutdown)(Client(), timeout=60)
    assert (told, drained) == (["closing"], "drained within 60")
