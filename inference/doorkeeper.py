"""The doorkeeper: keys, limits and records around the decisions; speaks no HTTP itself."""

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from inference.door import (
    NO_ROUTE,
    NO_SNAPSHOT,
    PRIORITY_OF_TIER,
    Bearer,
    RateLimiter,
    Refusal,
    RouteKind,
    authenticate,
    may_use,
    route_kind,
    served_tier,
    too_many,
)
from inference.door_body import (
    Asked,
    BodyRefusedError,
    Fields,
    Rewriting,
    asked,
    client_salt,
    read_fields,
    rewritten,
)
from inference.door_delivery import Delivery, Ending
from inference.door_keys import KeyIndex, KeyRing
from inference.door_ledger import DoorLedger, open_ledger
from inference.door_records import DoorClose, DoorOpen, carried
from inference.end_user_labels import LabelNotes
from inference.settings import InferenceSettings
from inference.sidecar_status import read_status, sidecar_metrics
from infra.pseudonyms import END_USER
from schemas.clock import Clock
from schemas.fields import NAME_PATTERN
from schemas.units import NS_PER_MS

LABEL_LENGTH_MAX = 256
_NAME = re.compile(NAME_PATTERN)
_NAME_LENGTH_MAX = 128
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]")
_NOTHING_ASKED = Asked(model="", end_user="", tier="", parts=1)
NOT_METERED = Refusal(
    503, "metering-unavailable", "Usage cannot be recorded", "try again in a little while", 1
)
CLOSING = Refusal(
    503, "server-closing", "This server is shutting down", "send it again in a little while", 1
)
NO_TIER = Refusal(
    403,
    "tier-not-allowed",
    "This API key may not use this service tier",
    "leave service_tier out, or ask for another key",
)


class Visit(NamedTuple):
    """A request that may come in; `bearer` is None on a public route."""

    kind: RouteKind
    endpoint: str
    bearer: Bearer | None = None
    client_request_id: str = ""


class TurnedAway(NamedTuple):
    """A request that may not; `request` is its event id, empty where it makes no event."""

    refusal: Refusal
    request: str = ""


class Admitted(NamedTuple):
    """A request on its way to the engine, with the body that the engine gets."""

    opened: DoorOpen
    body: bytes
    delivery: Delivery


class Doorkeeper:
    """One per API server process, used by one thread.

    Attributes:
        informed: Whether a hook in the server tells of every engine request.
        closing: Whether the engine takes nothing new; another thread may set it.
    """

    def __init__(self, ring: KeyRing, ledger: DoorLedger, settings: InferenceSettings) -> None:
        self.ledger = ledger
        self.settings = settings
        self._ring = ring
        self._limiter = RateLimiter()
        self._labels = LabelNotes(settings.host_folder) if settings.door_keep_labels else None
        self._limited: KeyIndex | None = None
        self.informed = False
        self.closing = False

    def enter(
        self, method: str, path: str, authorization: Sequence[bytes], client_request_id: bytes
    ) -> Visit | TurnedAway:
        """Decide by the head of a request alone.

        A refusal makes an event where the key says whose request it is.

        Args:
            method: In capitals.
            path: Without leading slash and root path.
            authorization: The values of all `Authorization` headers.
            client_request_id: What the client calls the request; a label, nothing more.
        """
        kind = route_kind(method, path)
        if kind is None or kind == "public":
            return Visit(kind, path) if kind else self._unnamed(NO_ROUTE)
        now_ms = self.ledger.now_ns() // NS_PER_MS
        index = self._ring.current(now_ms)
        if index is None:
            return self._unnamed(NO_SNAPSHOT)
        bearer = authenticate(authorization, index, now_ms)
        if isinstance(bearer, Refusal):
            return self._unnamed(bearer)
        label = _NOT_PRINTABLE.sub("", client_request_id.decode("latin-1"))[:LABEL_LENGTH_MAX]
        visit = Visit(kind, path, bearer, label)
        refusal = may_use(bearer, kind)
        if refusal is None and kind == "metered":
            refusal = self._over_limit(bearer, index)
        if refusal is None:
            return visit
        return self.turn_away(visit, refusal) if kind == "metered" else self._unnamed(refusal)

    def admit(self, visit: Visit, body: bytes) -> Admitted | TurnedAway:
        """Decide by the body of a metered request, write that it was opened, rewrite the body."""
        bearer = _bearer_of(visit)
        if self.closing:
            return self.turn_away(visit, CLOSING)
        try:
            fields = read_fields(body)
            wanted = _NOTHING_ASKED if fields is None else asked(fields, visit.endpoint)
        except BodyRefusedError as error:
            refusal = Refusal(400, "body-refused", "This body is not accepted", str(error))
            return self.turn_away(visit, refusal)
        tier = served_tier(
            wanted.tier,
            bearer.key.service_tiers,
            by_priority=self.settings.door_priority_scheduling,
        )
        if tier is None:
            return self.turn_away(visit, NO_TIER, wanted)
        # Minted and written without a pause: ids are in the spool in their order.
        opened = self._opening(visit, wanted, tier)
        if fields is not None:
            body = self._rewritten(fields, visit, opened)
        if not self.ledger.opened(opened):
            return TurnedAway(NOT_METERED)
        self.ledger.count("admitted")
        name = carried(opened.id)
        delivery = Delivery(visit.endpoint, wanted.parts, name, informed=self.informed)
        return Admitted(opened, body, delivery)

    def close(self) -> None:
        """Refuse what comes from now on: while vLLM drains, it would fail with status 500."""
        self.closing = True

    def turn_away(
        self, visit: Visit, refusal: Refusal, wanted: Asked = _NOTHING_ASKED
    ) -> TurnedAway:
        """Refuse a metered request whose tenant is known: an event that costs nothing."""
        self.ledger.count("refused")
        opened = self._opening(visit, wanted, "standard")
        self.ledger.refused(
            opened,
            DoorClose(
                id=opened.id,
                http_status=refusal.status,
                ending="refused",
                closed_unix_ns=opened.admitted_unix_ns,
                closed_mono_ns=opened.admitted_mono_ns,
            ),
        )
        return TurnedAway(refusal, opened.id)

    def leave(self, admitted: Admitted) -> Ending:
        """Write how an admitted request ended, and say it; never fails."""
        ending = self._ending(admitted.delivery)
        if ending.ending != "refused":
            self.ledger.count(ending.ending)
        self.ledger.closed(
            DoorClose(
                id=admitted.opened.id,
                http_status=ending.status,
                ending=ending.ending,
                finish_reason=ending.finish_reason,
                delivered_tokens=ending.delivered_tokens,
                counted=ending.counted,
                reasoning_tokens=self._reasoning(ending, admitted.delivery),
                usage=ending.usage,
                first_token_mono_ns=admitted.delivery.first_mono_ns,
                closed_unix_ns=self.ledger.now_ns(),
                closed_mono_ns=time.monotonic_ns(),
                engine_requests=ending.engine_requests,
            )
        )
        return ending

    def metrics(self) -> str:
        """The door's counters, and the host's sidecar and engines, as Prometheus reads them."""
        counts = self.ledger.counts | {"keys_unreadable": self._ring.failures}
        lines = ["# TYPE rentroll_door_total counter"]
        lines += [f'rentroll_door_total{{what="{name}"}} {n}' for name, n in sorted(counts.items())]
        host = read_status(self.settings.host_folder)
        told = sidecar_metrics(host, self.ledger.now_ns() // NS_PER_MS)
        return "\n".join(lines) + "\n" + told

    def _unnamed(self, refusal: Refusal) -> TurnedAway:
        """Refuse a request that belongs to nobody we know: counted, and no event."""
        self.ledger.count("unnamed")
        return TurnedAway(refusal)

    def _over_limit(self, bearer: Bearer, index: KeyIndex) -> Refusal | None:
        if index is not self._limited:
            self._limiter.forget_all_but(index.keys)
            self._limited = index
        granted = bearer.key.requests_per_minute
        if granted is None:
            return None
        share = max(granted // self.settings.door_api_workers, 1)
        wait_ns = self._limiter.take(bearer.key.key_id, share, time.monotonic_ns())
        return too_many(granted, wait_ns) if wait_ns else None

    def _opening(self, visit: Visit, wanted: Asked, tier: str) -> DoorOpen:
        bearer = _bearer_of(visit)
        now_ns = self.ledger.now_ns()
        known = len(wanted.model) <= _NAME_LENGTH_MAX and _NAME.fullmatch(wanted.model)
        user = wanted.end_user
        end_user = bearer.tenant.pseudonym(END_USER, user) if user else ""
        if user and self._labels is not None:
            self._labels.note(bearer.tenant.tenant, end_user, user, now_ns)
        return DoorOpen(
            id=self.ledger.mint(now_ns),
            tenant=bearer.tenant.tenant,
            project=bearer.key.project,
            api_key=bearer.key.key_id,
            client_request_id=visit.client_request_id,
            end_user=end_user,
            endpoint=visit.endpoint,
            service_tier=tier,
            model=wanted.model if known else "",
            admitted_unix_ns=now_ns,
            admitted_mono_ns=time.monotonic_ns(),
        )

    def _rewritten(self, fields: Fields, visit: Visit, opened: DoorOpen) -> bytes:
        salt = client_salt(fields)
        shared = self.settings.door_share_prefix_cache and not salt
        tenant = _bearer_of(visit).tenant
        by_priority = self.settings.door_priority_scheduling
        change = Rewriting(
            request=opened.id,
            cache_salt="" if shared else tenant.pseudonym("cache-salt", salt),
            tier=opened.service_tier,
            priority=PRIORITY_OF_TIER[opened.service_tier] if by_priority else None,
        )
        return rewritten(fields, visit.endpoint, change)

    def _reasoning(self, ending: Ending, delivery: Delivery) -> int:
        """How much was thinking, by the usage, else by the parsers of the server."""
        if ending.usage is not None:
            return ending.usage.reasoning_tokens
        try:
            return sum(thought() for thought in delivery.thinking)
        except Exception:  # its request was served; that it is all text then is counted, loudly
            self.ledger.count("metering_failures")
            return 0

    def _ending(self, delivery: Delivery) -> Ending:
        try:
            return delivery.read_end()
        except Exception:  # whatever an answer holds, its request was served and gets its record
            self.ledger.count("metering_failures")
            return Ending(
                ending="failed",
                status=delivery.http_status or 500,
                finish_reason="",
                model="",
                usage=None,
                delivered_tokens=0,
                counted=False,
                engine_requests=delivery.engine_requests,
            )


def open_door(settings: InferenceSettings, clock: Clock) -> Doorkeeper:
    """The doorkeeper of this process.

    Raises:
        SpoolError: If its spool cannot be written.
    """
    return Doorkeeper(KeyRing(settings), open_ledger(settings, clock), settings)


def _bearer_of(visit: Visit) -> Bearer:
    if visit.bearer is None:
        raise ValueError(f"{visit.endpoint} is {visit.kind}: nobody has shown a key for it")
    return visit.bearer
