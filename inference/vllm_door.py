"""Ties vLLM's API server to the door; the middleware loads it, and vLLM does as a plugin.

Four things the door cannot see from outside. Which engine requests a client request becomes: each
gets the minted id into its own, on every endpoint. How many tokens are in a chunk: what the code
that writes chunks takes out of its queue is counted, which costs one `len` per chunk and is exact
where vLLM merges tokens or a parser holds them back. How many of them were thinking: vLLM says so
in its usage block alone, which no cut stream has and few clients ask for; its parser is asked.
And that the engine drains: vLLM goes on taking requests then, and answers each with status 500.

`AsyncLLM.add_request` is wrapped; the queue that it returns becomes one that counts. So is
`AsyncLLM.shutdown`. A `Parser` that is made for a request is remembered. If this vLLM has no such
hook, it does not start.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from inference.door_delivery import CURRENT, Delivery
from schemas.errors import SettingsError

_MARK = "_rentroll_add_request"
_WANTED_ARGUMENTS = ("request_id", "params")
_WANTED_METHODS = ("get", "get_nowait")
_at_shutdown: list[Callable[[], None]] = []
_WANTED_OF_PARSERS: dict[str, tuple[str, ...]] = {
    "parse_delta": ("delta_text", "delta_token_ids"),
    "count_reasoning_tokens": (),
}


def register() -> None:
    """Wrap the engine client of this process; again changes nothing.

    Raises:
        SettingsError: If this vLLM lacks a hook; names its version and the hook.
    """
    import vllm
    from vllm.parser.abstract_parser import Parser
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import RequestOutputCollector

    if _MARK in vars(AsyncLLM):
        return
    original = AsyncLLM.add_request
    check_hooks(vllm.__version__, original, RequestOutputCollector, AsyncLLM, Parser)
    setattr(AsyncLLM, _MARK, original)
    AsyncLLM.add_request = counting(original, counting_queue(RequestOutputCollector))
    AsyncLLM.shutdown = telling(AsyncLLM.shutdown)
    remember_parsers(Parser)


def at_shutdown(do: Callable[[], None]) -> None:
    """Have something done when the engine of this process begins to drain, on whatever thread."""
    _at_shutdown.append(do)


def telling(shutdown: Callable[..., Any]) -> Callable[..., Any]:
    """`shutdown` as the door needs it: whoever asked by `at_shutdown` is told before."""

    @functools.wraps(shutdown)
    def shutdown_told(*args: Any, **keywords: Any) -> Any:
        for do in _at_shutdown:
            do()
        return shutdown(*args, **keywords)

    return shutdown_told


def check_hooks(
    version: str, add_request: Callable[..., Any], queue: type, client: type, parser: type
) -> None:
    """See that this vLLM has what is wrapped.

    Raises:
        SettingsError: If it has not.
    """
    known = inspect.signature(add_request).parameters
    missing = [f"AsyncLLM.add_request({name})" for name in _WANTED_ARGUMENTS if name not in known]
    missing += [f"{queue.__name__}.{name}" for name in _WANTED_METHODS if not hasattr(queue, name)]
    missing += [] if hasattr(client, "shutdown") else [f"{client.__name__}.shutdown"]
    missing += [
        f"{parser.__name__}.{name}({', '.join(wanted)})"
        for name, wanted in _WANTED_OF_PARSERS.items()
        if not _takes(getattr(parser, name, None), wanted)
    ]
    if missing:
        raise SettingsError(f"vLLM {version} has no {missing[0]}: Rentroll cannot meter its door")


def counting_queue(queue: type) -> type:
    """A kind of vLLM's queue that tells its `delivery` what is taken out."""

    class CountingQueue(queue):  # type: ignore[misc]
        """Of one engine request that came through the door."""

        delivery: Delivery

        def get_nowait(self) -> Any:
            output = super().get_nowait()
            if output is not None:
                self.delivery.handed(_tokens_in(output))
            return output

        async def get(self) -> Any:
            output = await super().get()
            self.delivery.handed(_tokens_in(output))
            return output

    return CountingQueue


def counting(
    add_request: Callable[..., Awaitable[Any]], queue: type
) -> Callable[..., Awaitable[Any]]:
    """`add_request` as the door needs it.

    Args:
        add_request: Of vLLM's engine client; returns the queue of the request's outputs.
        queue: What that queue becomes.
    """
    signature = inspect.signature(add_request)

    @functools.wraps(add_request)
    async def add_counted(*args: Any, **keywords: Any) -> Any:
        delivery = CURRENT.get()
        if delivery is None:
            # Not through the door: vLLM's own warm-up and health checks.
            return await add_request(*args, **keywords)
        bound = signature.bind(*args, **keywords)
        name = str(bound.arguments["request_id"])
        if delivery.carried not in name:
            bound.arguments["request_id"] = f"{name}-{delivery.carried}"
        delivery.engine_called(getattr(bound.arguments["params"], "n", 1) or 1)
        collector = await add_request(*bound.args, **bound.kwargs)
        # Its own class, so that no request but this one pays for the counting.
        collector.__class__ = queue
        collector.delivery = delivery
        return collector

    return add_counted


def remember_parsers(parser: type) -> None:
    """Let every parser that is made for a request of the door tell it what was thinking.

    Args:
        parser: What all of vLLM's parsers derive from; not all of them call its `__init__`.
    """

    def new(kind: type, *_: Any, **__: Any) -> Any:
        made: Any = object.__new__(kind)
        delivery = CURRENT.get()
        if delivery is not None:
            delivery.thinking.append(_listen(made))
        return made

    parser.__new__ = new  # type: ignore[assignment]


def _listen(parser: Any) -> Callable[[], int]:
    """Keep the ids of what a parser is given; asks it how many of them were thinking."""
    token_ids: list[int] = []
    parse_delta = parser.parse_delta

    def parse_heard(delta_text: str, delta_token_ids: Any, *more: Any, **named: Any) -> Any:
        token_ids.extend(delta_token_ids)
        return parse_delta(delta_text, delta_token_ids, *more, **named)

    parser.parse_delta = parse_heard
    return lambda: int(parser.count_reasoning_tokens(token_ids))


def _takes(method: Any, wanted: tuple[str, ...]) -> bool:
    if not callable(method):
        return False
    return tuple(inspect.signature(method).parameters)[1 : len(wanted) + 1] == wanted


def _tokens_in(output: Any) -> int:
    """Output tokens in what the engine says; 0 for an embedding. Deltas add up to all of them."""
    outputs = getattr(output, "outputs", None)
    if not isinstance(outputs, list):
        return 0
    return sum(len(one.token_ids) for one in outputs)
