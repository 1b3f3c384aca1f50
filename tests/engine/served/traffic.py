"""Mixed traffic of several tenants, and what each client counted."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import requests

SENTENCE = "hello world the quick brown fox billing metering tokens gpu seconds"
WORDS = SENTENCE.split()
LONG = " ".join(WORDS * 12)
CHAT, COMPLETIONS, RESPONSES = "v1/chat/completions", "v1/completions", "v1/responses"
EMBED = "v1/embeddings"


class Host(Protocol):
    """Where requests go."""

    def post(
        self, endpoint: str, *, key: int, label: str = ..., **body: Any
    ) -> requests.Response: ...

    def address(self) -> str: ...

    def headers(self, key: int, label: str) -> dict[str, str]: ...


@dataclass
class Seen:
    """One request as its client saw it.

    `request` is the minted id, if one was told. The three counts are of its `usage`, if it got one;
    `said` are the token ids of each choice, where it asked for them.
    """

    kind: str
    tenant: str
    status: int = 0
    request: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    thinking_tokens: int | None = None
    said: dict[int, list[int]] = field(default_factory=dict)
    thinking_chunks: int = 0
    tool_calls: int = 0
    cut: bool = False
    broken: str = ""
    label: str = ""

    @property
    def token_ids(self) -> int | None:
        """How many the client got, if any."""
        return sum(map(len, self.said.values())) or None

    def thought(self, start: int, end: int) -> int:
        """Of these, those between the markers of thinking."""
        found = 0
        for token_ids in self.said.values():
            thinking = False
            for one in token_ids:
                if one in (start, end):
                    thinking = one == start
                else:
                    found += thinking
        return found


@dataclass
class Traffic:
    """Seeded requests on a host."""

    host: Host
    seed: int
    kinds: list[tuple[str, "Send"]] = field(default_factory=lambda: KINDS)
    told_apart: str = "client"
    """What each calls its request, with a number."""
    seen: list[Seen] = field(default_factory=list)
    begun: int = 0
    """About how many have been sent: enough to tell when it is in the middle."""

    def run(self, requests_total: int, *, threads: int = 8) -> list[Seen]:
        """All of them, several at a time."""
        with ThreadPoolExecutor(threads) as pool:
            self.seen = list(pool.map(self._one, range(requests_total)))
        return self.seen

    def _one(self, number: int) -> Seen:
        self.begun += 1
        kind, send = self.kinds[number % len(self.kinds)]
        key = 1 + number % 2
        seen = Seen(kind, "acme" if key == 1 else "bolt", label=f"{self.told_apart} {number}")
        return send_one(self.host, send, key, seen, random.Random(self.seed * 1_000_003 + number))


def send_one(host: Host, send: "Send", key: int, seen: Seen, dice: random.Random) -> Seen:
    """Send a request and write down what its client saw, whatever that was."""
    try:
        send(host, dice, key, seen)
    except requests.ReadTimeout:
        seen.cut = True
    except requests.RequestException as error:
        seen.broken = repr(error)
    return seen


def words(dice: random.Random, count: int) -> str:
    return " ".join(dice.choice(WORDS) for _ in range(count))


def completion(dice: random.Random, **changes: Any) -> dict[str, Any]:
    body = {"prompt": words(dice, dice.randint(1, 40)), "max_tokens": dice.randint(1, 40)}
    return body | {"ignore_eos": True, "return_token_ids": True} | changes


def chat(dice: random.Random, **changes: Any) -> dict[str, Any]:
    body = completion(dice)
    return body | {"messages": [{"role": "user", "content": body.pop("prompt")}]} | changes


def whole(host: Host, key: int, seen: Seen, endpoint: str, body: dict[str, Any]) -> None:
    answer = host.post(endpoint, key=key, label=seen.label, **body)
    _head(answer, seen)
    content = msgspec.json.decode(answer.content)
    if not isinstance(content, dict):
        return
    _read(content, seen)


def stream(
    host: Host, key: int, seen: Seen, endpoint: str, body: dict[str, Any], cut: int = 0
) -> None:
    answer = host.post(endpoint, key=key, label=seen.label, stream=True, **body)
    _head(answer, seen)
    chunks = 0
    for line in answer.iter_lines():
        if not line.startswith(b"data: {"):
            continue
        _read(msgspec.json.decode(line[6:]), seen)
        chunks += 1
        if cut and chunks >= cut:
            seen.cut = True
            answer.close()
            return


def _head(answer: requests.Response, seen: Seen) -> None:
    seen.status = answer.status_code
    seen.request = answer.headers.get("X-Request-Id", "")


def _read(content: dict[str, Any], seen: Seen) -> None:
    """A whole answer, or a chunk of one."""
    usage = content.get("usage") or (content.get("response") or {}).get("usage")
    if usage:
        seen.input_tokens = usage.get("prompt_tokens", usage.get("input_tokens"))
        seen.output_tokens = usage.get("completion_tokens", usage.get("output_tokens"))
        details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
        seen.thinking_tokens = details.get("reasoning_tokens")
    seen.thinking_chunks += content.get("type") == "response.reasoning_text.delta"
    for choice in content.get("choices") or []:
        if choice.get("token_ids"):
            seen.said.setdefault(choice["index"], []).extend(choice["token_ids"])
        told = choice.get("message") or choice.get("delta") or {}
        seen.tool_calls += len(told.get("tool_calls") or [])


BEAMS = {"use_beam_search": True, "n": 2, "max_tokens": 6}
CHOICE = {"structured_outputs": {"choice": ["hello world", "quick fox"]}, "ignore_eos": False}


Send = Callable[[Host, random.Random, int, Seen], None]
WITH_USAGE = {"stream_options": {"include_usage": True}}
KINDS: list[tuple[str, Send]] = [
    ("completion", lambda h, d, k, s: whole(h, k, s, COMPLETIONS, completion(d))),
    ("chat", lambda h, d, k, s: whole(h, k, s, CHAT, chat(d))),
    ("stream", lambda h, d, k, s: stream(h, k, s, COMPLETIONS, completion(d))),
    ("stream usage", lambda h, d, k, s: stream(h, k, s, CHAT, chat(d, **WITH_USAGE))),
    (
        "stream cut",
        lambda h, d, k, s: stream(
            h, k, s, COMPLETIONS, completion(d, max_tokens=400), cut=d.randint(1, 15)
        ),
    ),
    (
        "chat cut",
        lambda h, d, k, s: stream(h, k, s, CHAT, chat(d, max_tokens=400), cut=d.randint(1, 15)),
    ),
    (
        "gone",
        lambda h, d, k, s: whole(h, k, s, COMPLETIONS, completion(d, max_tokens=900, _timeout=0.7)),
    ),
    ("prefix", lambda h, d, k, s: whole(h, k, s, COMPLETIONS, completion(d, prompt=LONG))),
    ("three samples", lambda h, d, k, s: whole(h, k, s, COMPLETIONS, completion(d, n=3))),
    (
        "two prompts",
        lambda h, d, k, s: whole(
            h, k, s, COMPLETIONS, completion(d, prompt=[words(d, 5), words(d, 20)])
        ),
    ),
    (
        "stop string",
        lambda h, d, k, s: whole(
            h, k, s, COMPLETIONS, completion(d, max_tokens=300, stop=["e", "o", "a"])
        ),
    ),
    ("bad number", lambda h, d, k, s: whole(h, k, s, COMPLETIONS, completion(d, max_tokens=-3))),
    ("no such model", lambda h, d, k, s: whole(h, k, s, CHAT, chat(d, model="nope"))),
    (
        "too long",
        lambda h, d, k, s: whole(h, k, s, COMPLETIONS, completion(d, prompt=words(d, 3_000))),
    ),
    (
        "responses",
        lambda h, d, k, s: whole(
            h, k, s, RESPONSES, {"input": words(d, 10), "max_output_tokens": d.randint(5, 30)}
        ),
    ),
    (
        "responses stream",
        lambda h, d, k, s: stream(
            h, k, s, RESPONSES, {"input": words(d, 10), "max_output_tokens": d.randint(5, 30)}
        ),
    ),
    ("two chats", lambda h, d, k, s: stream(h, k, s, CHAT, chat(d, n=2))),
    ("logprobs", lambda h, d, k, s: whole(h, k, s, COMPLETIONS, completion(d, logprobs=2))),
    ("beams", lambda h, d, k, s: whole(h, k, s, COMPLETIONS, completion(d, **BEAMS))),
    ("structured", lambda h, d, k, s: whole(h, k, s, CHAT, chat(d, **CHOICE))),
]
BRIEF: list[tuple[str, Send]] = [
    (
        "brief",
        lambda h, d, k, s: whole(h, k, s, COMPLETIONS, completion(d, prompt="a", max_tokens=1)),
    )
]
"""To fill a disk with records of requests that cost next to nothing."""

LONG_ANSWERS: list[tuple[str, Send]] = [
    ("long", lambda h, d, k, s: whole(h, k, s, COMPLETIONS, completion(d, max_tokens=150))),
    ("long stream", lambda h, d, k, s: stream(h, k, s, CHAT, chat(d, max_tokens=150))),
]
EMBEDDINGS: list[tuple[str, Send]] = [
    ("embedding", lambda h, d, k, s: whole(h, k, s, EMBED, {"input": words(d, d.randint(1, 90))})),
    (
        "three embeddings",
        lambda h, d, k, s: whole(h, k, s, EMBED, {"input": [words(d, n) for n in (1, 9, 40)]}),
    ),
    ("embedded ids", lambda h, d, k, s: whole(h, k, s, EMBED, {"input": [[5, 6, 7], [8, 9]]})),
    ("embedding too long", lambda h, d, k, s: whole(h, k, s, EMBED, {"input": words(d, 3_000)})),
]
