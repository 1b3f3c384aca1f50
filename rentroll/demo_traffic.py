"""Tenants who use a served model as real ones do: the official `openai` client, several at once.

Each writes down what it knows of its own requests: the `usage` that it was told, and of a stream
that it cut the last usage that it read. That is compared with what it is billed for.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openai import APIError, APIStatusError, AsyncOpenAI
from openai.types import CompletionUsage

from rentroll.served_counts import Asked, Ending
from schemas.errors import ServerError

OnAnswer = Callable[[int, int], None]
"""Hears how many of how many requests are over."""
Body = dict[str, Any]

ROUNDS = 3
AT_ONCE_PER_TENANT = 4
TIMEOUT_S = 120
_REFUSED = frozenset({400, 401, 403, 404, 413, 422, 429})
_USAGE_IN_EACH_CHUNK = {"include_usage": True, "continuous_usage_stats": True}
_CARRIED = "rr1-"
_TOPICS = (
    *("the tides", "a lighthouse", "winter bread", "the metric system", "chess openings"),
    *("the moons of Jupiter", "copper wire", "a city of bridges", "rain", "honest accounting"),
)
_HANDBOOK = " ".join(
    f"Rule {number}: before you answer question {number}, think of {topic}, say what you know of"
    f" {topic} in plain words, and keep to the facts."
    for number, topic in enumerate(_TOPICS * 2, start=1)
)
"""A long text that every request of a tenant begins with: from the second on it is in the cache."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose requests they are, and the key that says so."""

    name: str
    project: str
    api_key: str


@dataclass(frozen=True, slots=True)
class _Wish:
    """A request that is to be made; `cut_after` chunks the client goes away, 0: it stays."""

    kind: str
    chat: bool
    body: Body
    cut_after: int = 0


def drive(
    base_url: str,
    model: str,
    tenants: Sequence[Tenant],
    *,
    seed: int,
    on_answer: OnAnswer,
    stop: threading.Event,
) -> list[Asked]:
    """Make every tenant's requests, all tenants at once, and say what each of them saw.

    Args:
        base_url: Of the server, with `/v1`.
        model: What the server calls its model.
        tenants: Who asks.
        seed: Decides what is asked.
        on_answer: Told after each request.
        stop: Set to make no further requests.

    Raises:
        ServerError: If the server fails to answer: no outcome that a client has to expect.
    """
    try:
        return asyncio.run(_drive(base_url, model, tenants, seed, on_answer, stop))
    except APIError as error:
        raise ServerError(f"the served model did not answer: {error!r}") from error


def wishes(model: str, tenant: str, seed: int) -> list[_Wish]:
    """What a tenant asks for: the same for the same seed."""
    dice = random.Random(f"{seed} {tenant}")  # noqa: S311 - variety, no secret
    found: list[_Wish] = []
    for number in range(ROUNDS):
        found += [
            _chat(dice, "chat", model),
            _chat(dice, "chat, streamed", model, stream=True),
            _text(dice, "completion", model),
            _text(dice, "completion, streamed", model, stream=True),
            _chat(dice, "shared prefix", model, system=_HANDBOOK),
            _chat(dice, "shared prefix, streamed", model, system=_HANDBOOK, stream=True),
            _cut(_chat(dice, "chat, cut", model, stream=True), 1 + dice.randrange(12)),
            _cut(_text(dice, "completion, cut", model, stream=True), 1 + dice.randrange(12)),
        ]
        wrong = _chat(dice, "no such model", f"{model}-of-others")
        found.append(wrong if number % 2 else _changed(wrong, "too few tokens", model))
    return found


def _chat(
    dice: random.Random, kind: str, model: str, *, system: str = "", stream: bool = False
) -> _Wish:
    messages = [{"role": "user", "content": f"Tell me something about {dice.choice(_TOPICS)}."}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return _Wish(kind, chat=True, body=_body(dice, model, stream=stream) | {"messages": messages})


def _text(dice: random.Random, kind: str, model: str, *, stream: bool = False) -> _Wish:
    prompt = f"Here is a short story about {dice.choice(_TOPICS)}. Once upon a time"
    return _Wish(kind, chat=False, body=_body(dice, model, stream=stream) | {"prompt": prompt})


def _body(dice: random.Random, model: str, *, stream: bool) -> Body:
    body: Body = {"model": model, "max_tokens": 8 + dice.randrange(33), "seed": dice.randrange(99)}
    if stream:
        body |= {"stream": True, "extra_body": {"stream_options": _USAGE_IN_EACH_CHUNK}}
    return body


def _cut(wish: _Wish, chunks: int) -> _Wish:
    """Asks for far more than it will read."""
    more = {**wish.body["extra_body"], "ignore_eos": True}
    return _Wish(
        wish.kind, wish.chat, wish.body | {"max_tokens": 400, "extra_body": more}, cut_after=chunks
    )


def _changed(wish: _Wish, kind: str, model: str) -> _Wish:
    return _Wish(kind, wish.chat, wish.body | {"model": model, "max_tokens": -3})


async def _drive(
    base_url: str,
    model: str,
    tenants: Sequence[Tenant],
    seed: int,
    on_answer: OnAnswer,
    stop: threading.Event,
) -> list[Asked]:
    asked: list[Asked] = []
    planned = {tenant: wishes(model, tenant.name, seed) for tenant in tenants}
    total = sum(map(len, planned.values()))

    async def one(client: AsyncOpenAI, turn: asyncio.Semaphore, name: str, wish: _Wish) -> None:
        async with turn:
            if not stop.is_set():
                asked.append(await _ask(client, name, wish))
                on_answer(len(asked), total)

    async def all_of(tenant: Tenant) -> None:
        turn = asyncio.Semaphore(AT_ONCE_PER_TENANT)
        # No retries: a request that the client repeats by itself is two requests.
        async with AsyncOpenAI(
            base_url=base_url, api_key=tenant.api_key, max_retries=0, timeout=TIMEOUT_S
        ) as client:
            await asyncio.gather(
                *(one(client, turn, tenant.name, wish) for wish in planned[tenant])
            )

    await asyncio.gather(*map(all_of, tenants))
    return asked


async def _ask(client: AsyncOpenAI, tenant: str, wish: _Wish) -> Asked:
    endpoint: Any = client.chat.completions if wish.chat else client.completions
    try:
        answer = await endpoint.with_raw_response.create(**wish.body)
    except APIStatusError as error:
        if error.status_code not in _REFUSED:
            raise
        return Asked(wish.kind, tenant, _request_of(error.response.headers), "refused")
    request = _request_of(answer.headers)
    if not wish.body.get("stream"):
        return _told(wish.kind, tenant, request, "answered", answer.parse().usage)
    usage, chunks = None, 0
    async with answer.parse() as stream:
        async for chunk in stream:
            usage = chunk.usage or usage
            chunks += bool(chunk.choices)
            if wish.cut_after and chunks >= wish.cut_after:
                return _told(wish.kind, tenant, request, "cut", usage)
    return _told(wish.kind, tenant, request, "answered", usage)


def _told(
    kind: str, tenant: str, request: str, ending: Ending, usage: CompletionUsage | None
) -> Asked:
    """What the client knows; without any usage it knows of no tokens."""
    if usage is None:
        return Asked(kind, tenant, request, ending)
    details = usage.prompt_tokens_details
    return Asked(
        kind,
        tenant,
        request,
        ending,
        input_tokens=usage.prompt_tokens,
        cached_tokens=(details.cached_tokens or 0) if details else 0,
        output_tokens=usage.completion_tokens,
    )


def _request_of(headers: Any) -> str:
    return str(headers.get("x-request-id", "")).removeprefix(_CARRIED)
