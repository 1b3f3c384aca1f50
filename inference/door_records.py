"""What the door of an API server writes into its spool: boots, opened and closed requests, marks.

The id of a request is the UUIDv7 of its one event, minted at the door. In the engine, and in the
header X-Request-Id, it travels as `rr1-<uuid7>`; vLLM puts text before and behind it. Whose
request it is stands in the door's `open` record alone, so nothing that a client can read or forge
names a tenant.

Order matters: a process mints ids in the order in which it writes them, with a time that never
steps back. Everything admitted before a record of a door is therefore above that record in the
door's spool, and `DoorMark`, once a second, says so while nothing is admitted.

Frames carry `<kind> <id> <subject> <data>`: the kind below, the request's id (for a boot, mark or
stop the door's id, a UUID), and `-` for the subject.
"""

import re
from typing import Literal

import msgspec

DOOR_BOOT = "door.boot"
DOOR_OPEN = "door.open"
DOOR_CLOSE = "door.close"
DOOR_MARK = "door.mark"
DOOR_STOP = "door.stop"

_CARRIED = re.compile(r"rr1-([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})")

DoorEnding = Literal["finished", "aborted", "refused", "failed"]
"""How the door saw a request end: answered whole; the client left first; turned away before any
engine saw it; answered with an error, or cut short by our side."""


class DoorBoot(msgspec.Struct, frozen=True):
    """An API server process came up; the first record of its spool."""

    door: str
    host: str
    pid: int
    booted_unix_ns: int
    booted_mono_ns: int


class DoorOpen(msgspec.Struct, frozen=True, kw_only=True):
    """A request was admitted, or is being refused; written before anything else happens to it.

    `model` and `adapter` are what the client asked for, before an engine says what it ran.
    """

    id: str
    tenant: str
    project: str
    api_key: str
    client_request_id: str = ""
    end_user: str = ""
    endpoint: str
    service_tier: str = "standard"
    model: str = ""
    adapter: str = ""
    admitted_unix_ns: int
    admitted_mono_ns: int


class ClientUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The `usage` that the server computed for the client, whether or not it was sent."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class DoorClose(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing more will reach the client.

    Attributes:
        id: Of the request.
        http_status: What was sent, or would have been: 499 where the client left first.
        ending: See `DoorEnding`.
        finish_reason: `stop`, `length`, ... as the client saw it; empty where it saw none.
        delivered_tokens: Handed to the client's connection: a cut stream counts what the network
            had not yet taken, too, so it can be above what the client has read.
        counted: Whether the server's hook counted `delivered_tokens`; else they are chunks, which
            hold more tokens than one, or none, and are no amount to bill by.
        reasoning_tokens: Of the tokens delivered or in `usage`, those that were thinking.
        usage: Where the server computed one.
        first_token_mono_ns: 0 where none came.
        closed_mono_ns: When.
        engine_requests: Sent to engines for this request; so many parts are waited for.
    """

    id: str
    http_status: int
    ending: DoorEnding
    finish_reason: str = ""
    delivered_tokens: int = 0
    counted: bool = False
    reasoning_tokens: int = 0
    usage: ClientUsage | None = None
    first_token_mono_ns: int = 0
    closed_unix_ns: int
    closed_mono_ns: int
    engine_requests: int = 0


class DoorMark(msgspec.Struct, frozen=True):
    """Alive, and everything admitted before `unix_ns` is written above."""

    unix_ns: int
    mono_ns: int


class DoorStop(msgspec.Struct, frozen=True):
    """The process ends in order; nothing follows."""

    unix_ns: int
    mono_ns: int


def carried(event_id: str) -> str:
    """The id as X-Request-Id and the engine carry it."""
    return f"rr1-{event_id}"


def event_id_in(engine_request: str) -> str:
    """The minted id within an engine's request id, or an empty string where there is none."""
    found = _CARRIED.search(engine_request)
    return found.group(1) if found else ""
