"""Refusals as problem details (RFC 9457) that OpenAI's clients understand too. Pure."""

import msgspec

from inference.door import Refusal
from inference.door_records import carried

CONTENT_TYPE = b"application/problem+json"
Headers = list[tuple[bytes, bytes]]


class _Error(msgspec.Struct):
    """Where OpenAI's clients look for what went wrong."""

    message: str
    type: str
    code: str


class _Problem(msgspec.Struct):
    type: str
    title: str
    status: int
    detail: str
    error: _Error
    instance: str | msgspec.UnsetType = msgspec.UNSET


def problem_body(refusal: Refusal, request: str = "") -> bytes:
    """The body; `request` is the event id, empty where none was minted."""
    problem = _Problem(
        type=f"urn:rentroll:problem:{refusal.code}",
        title=refusal.title,
        status=refusal.status,
        detail=refusal.detail,
        error=_Error(f"{refusal.title}: {refusal.detail}", "rentroll", refusal.code),
        instance=f"urn:uuid:{request}" if request else msgspec.UNSET,
    )
    return msgspec.json.encode(problem)


def problem_headers(refusal: Refusal, body: bytes, request: str = "") -> Headers:
    """The headers that go with it."""
    headers = [
        (b"content-type", CONTENT_TYPE),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if refusal.status == 401:  # noqa: PLR2004 - RFC 9110 asks for this header with this status
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.retry_after_s:
        headers.append((b"retry-after", str(refusal.retry_after_s).encode()))
    if request:
        headers.append((b"x-request-id", carried(request).encode()))
    return headers
