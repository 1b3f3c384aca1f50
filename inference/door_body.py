"""The body of a request as the door rewrites it: few fields, the rest byte for byte. Pure.

Only the top level is taken apart; every value stays the bytes it was. What the door's parser
refuses is tried with Python's own, which is the one that vLLM uses and is more forgiving (NaN,
a byte order mark, UTF-16): otherwise a body could pass unsalted. What neither can read is passed
on as it is, and vLLM refuses it in its own words.
"""

import json
from typing import NamedTuple

import msgspec

from inference.door_records import carried
from schemas.usage import MAX_PARTS

Fields = dict[str, msgspec.Raw]
RESPONSES = "v1/responses"
_decode = msgspec.json.Decoder(Fields).decode
_encode = msgspec.json.Encoder().encode
ENGINES_ONLY = (
    "priority",
    "request_id",
    "session_id",
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
)
"""Who goes first, under which id, with whose cache: the door's to say, never the client's.

`vllm_xargs` is a second way to name a session and to reach what others have cached.
"""
_WORD_OF_TIER = {"standard": "default", "flex": "flex", "batch": "flex", "priority": "priority"}
"""`service_tier` in the words that vLLM validates."""


class BodyRefusedError(Exception):
    """A body that the door itself turns away; the message says what the client should change."""


class Asked(NamedTuple):
    """What the door needs to know of a body before it rewrites it."""

    model: str
    end_user: str
    tier: str
    parts: int


class Rewriting(NamedTuple):
    """What the door puts into a body."""

    request: str
    cache_salt: str
    tier: str
    priority: int | None


def read_fields(body: bytes) -> Fields | None:
    """The top level of a JSON object; None where vLLM will not find one either.

    Raises:
        BodyRefusedError: If it is nested too deeply to be read safely.
    """
    try:
        return _decode(body)
    except msgspec.ValidationError:
        return None
    except RecursionError as error:
        raise BodyRefusedError("the JSON of the body is nested too deeply") from error
    except ValueError:
        return _read_leniently(body)


def asked(fields: Fields, endpoint: str) -> Asked:
    """Read what the door needs; a value of the wrong type counts as absent.

    Raises:
        BodyRefusedError: If the request would make too many parts, or keeps state on the server.
    """
    if endpoint == RESPONSES:
        _refuse_kept_state(fields)
    prompts = sum(_prompts(fields, name) for name in ("prompt", "input", "prompt_embeds"))
    parts = max(_integer(fields, "n"), 1) * max(prompts, 1)
    if parts > MAX_PARTS:
        raise BodyRefusedError(f"n times prompts: {parts} is more than {MAX_PARTS}")
    return Asked(
        model=_text(fields, "model"),
        end_user=_text(fields, "user") or _text(fields, "safety_identifier"),
        tier=_text(fields, "service_tier"),
        parts=parts,
    )


def rewritten(fields: Fields, endpoint: str, change: Rewriting) -> bytes:
    """The body as the engine gets it.

    Args:
        fields: Of the client; taken over, not copied.
        endpoint: Without its leading slash.
        change: What the door says.
    """
    for name in ENGINES_ONLY:
        fields.pop(name, None)
    if change.cache_salt:
        fields["cache_salt"] = _raw(change.cache_salt)
    else:
        fields.pop("cache_salt", None)
    if change.priority is not None:
        fields["priority"] = _raw(change.priority)
    if _text(fields, "service_tier") in {*_WORD_OF_TIER, "auto", "default"}:
        fields["service_tier"] = _raw(_WORD_OF_TIER[change.tier])
    if endpoint == RESPONSES:
        # This endpoint takes its id from the body only, and would keep the answer for anybody.
        fields["request_id"] = _raw(f"resp_{carried(change.request)}")
        fields["store"] = _raw(value=False)
    return _encode(fields)


def client_salt(fields: Fields) -> str:
    """A cache salt that the client chose to keep its own users apart; empty for none."""
    return _text(fields, "cache_salt")


def _read_leniently(body: bytes) -> Fields | None:
    """As Starlette's `Request.json`, of which vLLM's parsing is made.

    Raises:
        BodyRefusedError: If it is nested too deeply to be read safely.
    """
    try:
        found = json.loads(body)
    except RecursionError as error:
        raise BodyRefusedError("the JSON of the body is nested too deeply") from error
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in found.items()}


def _refuse_kept_state(fields: Fields) -> None:
    """Answers that the server keeps belong to no tenant, and work behind a closed door to none."""
    for name in ("previous_response_id", "background"):
        value = bytes(fields.get(name, msgspec.Raw(b"null"))).strip()
        if value not in (b"null", b"false", b'""'):
            raise BodyRefusedError(f"{name}: answers are not kept on this server; leave it out")


def _prompts(fields: Fields, name: str) -> int:
    """How many prompts a field holds: a list of token ids or of messages is one."""
    raw = fields.get(name)
    text = bytes(raw).lstrip() if raw is not None else b""
    if not text or text == b"null":
        return 0
    if not text.startswith(b"[") or text[1:].lstrip()[:1] not in (b"[", b'"'):
        return 1
    try:
        return len(msgspec.json.decode(text, type=list[msgspec.Raw]))
    except ValueError:
        return 1


def _text(fields: Fields, name: str) -> str:
    raw = fields.get(name)
    if raw is None or not bytes(raw).lstrip().startswith(b'"'):
        return ""
    try:
        return str(json.loads(bytes(raw)))
    except ValueError:
        return ""


def _integer(fields: Fields, name: str) -> int:
    """A whole number as vLLM would read it, which takes `"3"` and `3.0` for 3."""
    raw = fields.get(name)
    try:
        return int(json.loads(bytes(raw))) if raw is not None else 0
    except (TypeError, ValueError, OverflowError):
        return 0


def _raw(value: str | int | bool) -> msgspec.Raw:  # noqa: FBT001 - a JSON value, not a switch
    return msgspec.Raw(_encode(value))
