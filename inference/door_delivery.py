"""Counts what reached the client, from the bytes that pass the door. Pure.

Per chunk it does as little as can be: two references and one search for a short pattern; JSON is
parsed once, at the end, of the last chunks only. Inside a JSON string every quote is escaped, so
a pattern that contains a bare quote cannot be forged by what a model says.

Chunks are a count of tokens where the server writes one chunk per token. It writes more tokens
into one when the client reads slowly or drafts are accepted, and none while a parser of tools or
thinking holds back. Exact is therefore: the usage block where it was sent; else what a hook in
the server tells (`handed`), as of the last chunk that went out; else the chunks.
"""

from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from copy import copy

import msgspec

from inference.door_records import ClientUsage, DoorEnding

CHAT = "v1/chat/completions"
RESPONSES = "v1/responses"
CLIENT_GONE_STATUS = 499
HTTP_ERROR = 400
HTTP_BROKEN = 500
_CHOICE = b'"choices":[{'
_DELTA = b".delta\n"
_ROLE = b'"role":"'
_REASON_OF_RESPONSE = {"completed": "stop", "incomplete": "length"}
BODY_KEPT_BYTES = 4 * 1024 * 1024
"""Of an answer that is not a stream, to read its usage; a longer one is counted without."""

TAIL_CHUNKS = 3
"""Of a stream: the chunk with the finish reason, the one with usage, `[DONE]`."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """`usage` in the words of all endpoints."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None

    def for_record(self) -> ClientUsage:
        read = self.prompt_tokens_details or self.input_tokens_details or _Details()
        thought = self.completion_tokens_details or self.output_tokens_details or _Details()
        return ClientUsage(
            input_tokens=self.prompt_tokens or self.input_tokens or 0,
            output_tokens=self.completion_tokens or self.output_tokens or 0,
            cached_tokens=read.cached_tokens or 0,
            reasoning_tokens=thought.reasoning_tokens or 0,
        )


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    """A whole answer, or one event of a stream; everything else in it is skipped."""

    model: str = ""
    usage: _Usage | None = None
    choices: list[_Choice] = []
    response: "_Answer | None" = None
    status: str | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Answer).decode


class Delivery:
    """One request on its way out. The server's hook finds it in `CURRENT`.

    With `informed` there is such a hook, so a failed request that it never saw reached no engine.

    Attributes:
        carried: The minted id as engines carry it.
        http_status: Of the answer; 0 before it starts.
        engine_requests: That the hook saw, or that the request should make.
        first_mono_ns: When the first chunk of the answer went out, 0 before.
        gone: Whether the client left before the end.
        complete: Whether the last byte went out.
        thinking: For the hook: each says how many tokens that were handed out were thinking.
    """

    __slots__ = (
        "_body",
        "_chunks",
        "_handed",
        "_handed_sent",
        "_hooked",
        "_informed",
        "_marker",
        "_parts",
        "_roles",
        "_stream",
        "_tail",
        "carried",
        "complete",
        "engine_requests",
        "first_mono_ns",
        "gone",
        "http_status",
        "thinking",
    )

    def __init__(
        self, endpoint: str, parts: int, carried: str = "", *, informed: bool = False
    ) -> None:
        self.carried = carried
        self.http_status = 0
        self.engine_requests = parts
        self.first_mono_ns = 0
        self.gone = False
        self.complete = False
        self.thinking: list[Callable[[], int]] = []
        self._parts = parts
        self._informed = informed
        self._hooked = False
        self._stream = False
        self._marker = _DELTA if endpoint == RESPONSES else _CHOICE
        # Each choice of a chat begins with a chunk that says who speaks and holds no token.
        self._roles = parts if endpoint == CHAT else 0
        self._chunks = self._handed = self._handed_sent = 0
        self._tail: deque[bytes] = deque(maxlen=TAIL_CHUNKS)
        self._body: list[bytes] = []

    def engine_called(self, requests: int) -> None:
        """For the hook: so many engine requests were made. It counts from its first call on."""
        self.engine_requests = requests + (self.engine_requests if self._hooked else 0)
        self._hooked = True

    def handed(self, tokens: int) -> None:
        """For the hook: so many output tokens were given to the code that writes chunks."""
        self._handed += tokens

    def started(self, status: int, content_type: bytes) -> None:
        """The answer's head went out."""
        self.http_status = status
        self._stream = content_type.startswith(b"text/event-stream")

    def sent(self, body: bytes) -> None:
        """A chunk went out; the hot path."""
        if not self._stream:
            self._body.append(body)
            return
        self._tail.append(body)
        if self._hooked:
            self._handed_sent = self._handed
            return
        self._chunks += body.count(self._marker)
        if self._roles and _ROLE in body:
            self._roles -= 1
            self._chunks -= 1

    def read_end(self) -> "Ending":
        """Parse the end of the answer, once."""
        answers = _events(b"".join(self._tail)) if self._stream else self._whole()
        usage, reason, model, failed = None, "", "", False
        for answer in answers:
            inner = answer.response or answer
            if inner.usage is not None:
                usage = inner.usage.for_record()
            reason = _finish_reason(inner) or reason
            model = inner.model or model
            failed = failed or bytes(inner.error) != b"null"
        return Ending(
            ending=self._ending(failed=failed),
            status=CLIENT_GONE_STATUS if self._left_first() else self.http_status or HTTP_BROKEN,
            finish_reason=reason,
            model=model,
            # Of a stream that was cut it speaks of the time of the cut: no total to bill by.
            usage=usage if self.complete else None,
            delivered_tokens=self._delivered(usage),
            counted=self._hooked,
            engine_requests=self._engine_requests(),
        )

    def foreseen(self, body: bytes) -> "Ending":
        """How it will have ended once this last chunk is out; nothing is counted yet."""
        ahead = copy(self)
        ahead._tail = self._tail.copy()  # noqa: SLF001  (of its own kind)
        ahead._body = self._body.copy()  # noqa: SLF001
        ahead.sent(body)
        return ahead.read_end()

    def _left_first(self) -> bool:
        return self.gone and not self.complete

    def _ending(self, *, failed: bool) -> DoorEnding:
        if self._left_first():
            return "aborted"
        if HTTP_ERROR <= self.http_status < HTTP_BROKEN:
            return "failed" if self._hooked and self.engine_requests else "refused"
        if failed or not self.complete or self.http_status >= HTTP_BROKEN:
            return "failed"
        return "finished"

    def _delivered(self, usage: ClientUsage | None) -> int:
        if not self._stream:
            return usage.output_tokens if usage is not None and self.complete else 0
        # In a cut stream only a client that asked for usage in every chunk has left us one, and
        # that speaks of one choice.
        if usage is not None and (self.complete or self._parts == 1):
            return usage.output_tokens
        return self._handed_sent if self._hooked else self._chunks

    def _engine_requests(self) -> int:
        """What the hook saw; else what the body asked for, unless none of it came so far."""
        if self._hooked:
            return self.engine_requests
        failed = not self.complete or self.http_status >= HTTP_ERROR
        turned_down = HTTP_ERROR <= self.http_status < HTTP_BROKEN
        return 0 if turned_down or (failed and self._informed) else self.engine_requests

    def _whole(self) -> list[_Answer]:
        if sum(map(len, self._body)) > BODY_KEPT_BYTES:
            return []
        return _answers([b"".join(self._body)])


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended, as far as the door can tell."""

    ending: DoorEnding
    status: int
    finish_reason: str
    model: str
    usage: ClientUsage | None
    delivered_tokens: int
    counted: bool
    engine_requests: int


CURRENT: ContextVar[Delivery | None] = ContextVar("rentroll_delivery", default=None)
"""The request that is being served; a hook deep inside the server finds it here."""


def _events(tail: bytes) -> list[_Answer]:
    """The events of a stream's last chunks; the first of them may be cut."""
    lines = tail.split(b"\n")
    return _answers(line[6:] for line in lines if line.startswith(b"data: {"))


def _answers(texts: Iterable[bytes]) -> list[_Answer]:
    found = []
    for text in texts:
        try:
            found.append(_decode(text))
        except (ValueError, RecursionError):
            continue
    return found


def _finish_reason(answer: _Answer) -> str:
    """Of the choice that ended last; the Responses API says it in a status."""
    reasons = [choice.finish_reason for choice in answer.choices if choice.finish_reason]
    return reasons[-1] if reasons else _REASON_OF_RESPONSE.get(answer.status or "", "")
