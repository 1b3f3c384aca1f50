"""What the door decides about a request: who it is from, whether it may pass, in which tier. Pure.

Deny by default: a route that is not listed here does not exist for anybody.
"""

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from inference.door_keys import DoorKey, DoorTenant, KeyIndex
from infra.api_keys import SERVICE_TIERS, PresentedKey, is_secret_of, parse_key
from schemas.units import NS_PER_S

RouteKind = Literal["public", "keyed", "metered", "operator"]

METERED = frozenset({"v1/completions", "v1/chat/completions", "v1/responses", "v1/embeddings"})
"""Each call makes one event. A route joins when its usage can be counted exactly."""
_KEYED = frozenset({("GET", "v1/models")})
_PUBLIC = frozenset({("GET", "health"), ("GET", "ping")})
DOOR_METRICS = "rentroll/metrics"
"""The door's own counters, which it answers itself."""
_OPERATOR = frozenset(
    {
        *(("GET", DOOR_METRICS), ("GET", "metrics"), ("GET", "version"), ("GET", "load")),
        *(("GET", "server_info"), ("GET", "is_sleeping"), ("POST", "sleep"), ("POST", "wake_up")),
        *(("POST", "reset_prefix_cache"), ("POST", "start_profile"), ("POST", "stop_profile")),
        *(("POST", "v1/load_lora_adapter"), ("POST", "v1/unload_lora_adapter")),
        *(("POST", "tokenize"), ("POST", "detokenize")),
    }
)
STANDARD = "standard"
_TIER_WORDS: dict[str, str] = {"default": STANDARD}
_TIER_WORDS.update({tier: tier for tier in SERVICE_TIERS})
"""What clients call the tiers: our words, and OpenAI's where they differ."""
PRIORITY_OF_TIER = {"priority": 0, STANDARD: 10, "flex": 20, "batch": 30}
"""For an engine that schedules by priority; the lower goes first."""
NS_PER_MINUTE = 60 * NS_PER_S
_NOBODY = PresentedKey("key_nobody", "")
_NO_HASH = "0" * 64


class Refusal(NamedTuple):
    """Why a request is turned away; `code` is stable and ends the type of the problem."""

    status: int
    code: str
    title: str
    detail: str
    retry_after_s: int = 0


class Bearer(NamedTuple):
    """Whoever showed a valid key."""

    key: DoorKey
    tenant: DoorTenant


NO_SNAPSHOT = Refusal(
    503, "keys-unavailable", "Keys cannot be checked", "the server has no current list of API keys"
)
NO_ROUTE = Refusal(404, "no-such-route", "Not found", "there is nothing at this path")
NO_KEY = Refusal(
    401, "key-missing", "An API key is needed", "send one `Authorization: Bearer rr_…`"
)
WRONG_KEY = Refusal(401, "key-unknown", "This API key is not known", "check it, or ask for another")
REVOKED = Refusal(401, "key-revoked", "This API key was revoked", "ask for another")
EXPIRED = Refusal(401, "key-expired", "This API key has expired", "ask for another")
NO_SCOPE = Refusal(
    403, "scope-missing", "This API key does not open this", "its scopes do not include this route"
)


def route_kind(method: str, path: str) -> RouteKind | None:
    """What kind of route this is, None for one that is not listed.

    Args:
        method: In capitals.
        path: Without the leading slash and without a root path.
    """
    if method == "POST" and path in METERED:
        return "metered"
    asked = (method, path)
    if asked in _KEYED:
        return "keyed"
    if asked in _PUBLIC or _is_preflight(method, path):
        return "public"
    return "operator" if asked in _OPERATOR else None


def path_below_root(path: str, root_path: str) -> str:
    """The route that a server under `root_path` will look up, without its leading slash."""
    if root_path and path.startswith(root_path.rstrip("/") + "/"):
        path = path[len(root_path.rstrip("/")) :]
    return path.removeprefix("/")


def authenticate(authorization: Sequence[bytes], index: KeyIndex, now_ms: int) -> Bearer | Refusal:
    """Who shows this `Authorization`; several such headers are as good as none.

    An unknown id takes as long as a wrong secret, so neither can be told from the other.
    """
    if len(authorization) != 1 or authorization[0][:7].lower() != b"bearer ":
        return NO_KEY
    presented = parse_key(authorization[0][7:].strip().decode("latin-1"))
    if presented is None:
        return WRONG_KEY
    key = index.keys.get(presented.key_id)
    if key is None:
        is_secret_of(_NOBODY, _NO_HASH)
        return WRONG_KEY
    tenant = index.tenants.get(key.tenant)
    if not is_secret_of(presented, key.secret_hash) or tenant is None:
        return WRONG_KEY
    return _ended(key, now_ms) or Bearer(key, tenant)


def may_use(bearer: Bearer, kind: RouteKind) -> Refusal | None:
    """Whether the key's scopes open this kind of route, and its tenant is served."""
    scope = "operator" if kind == "operator" else "inference"
    if scope not in bearer.key.scopes:
        return NO_SCOPE
    if bearer.tenant.suspended and kind != "operator":
        reason = bearer.tenant.suspend_reason or "ask whoever runs this service"
        return Refusal(403, "tenant-suspended", "This account is suspended", reason)
    return None


def served_tier(asked: str, allowed: Collection[str], *, by_priority: bool) -> str | None:
    """The tier a request is served and billed in, None where the key allows none of it.

    Never above what was asked for, what the key allows, and what the engine does: one that does
    not schedule by priority serves nothing above standard. Without a word, or with a word that
    is no tier, a request asks for standard; `auto` means the same.

    Args:
        asked: The client's word, empty for none.
        allowed: The tiers of the key.
        by_priority: Whether the engine schedules by priority.
    """
    tier = _TIER_WORDS.get(asked, "")
    cap = SERVICE_TIERS.index(tier or STANDARD)
    if not by_priority:
        cap = min(cap, SERVICE_TIERS.index(STANDARD))
    below = [one for one in SERVICE_TIERS[: cap + 1] if one in allowed]
    return below[-1] if below else None


class RateLimiter:
    """A token bucket per key: `requests_per_minute` at once, refilled evenly.

    In the form of the generic cell rate algorithm (ITU-T I.371): one integer per key, the time at
    which its bucket will be full, says everything, and no rounding adds up.
    """

    def __init__(self) -> None:
        self._full_at_ns: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._full_at_ns)

    def take(self, key_id: str, requests_per_minute: int, now_ns: int) -> int:
        """Take a token.

        Args:
            key_id: Whose bucket.
            requests_per_minute: What it holds and how fast it fills; at least 1.
            now_ns: Of a clock that does not go back.

        Returns:
            0, or in how many ns there will be one; then none was taken.
        """
        step_ns = -(-NS_PER_MINUTE // requests_per_minute)
        full_at_ns = max(self._full_at_ns.get(key_id, 0), now_ns) + step_ns
        early_ns = full_at_ns - now_ns - step_ns * requests_per_minute
        if early_ns > 0:
            return early_ns
        self._full_at_ns[key_id] = full_at_ns
        return 0

    def forget_all_but(self, key_ids: Collection[str]) -> None:
        """Drop the buckets of keys that are no more."""
        self._full_at_ns = {
            key_id: at for key_id, at in self._full_at_ns.items() if key_id in key_ids
        }


def too_many(requests_per_minute: int, wait_ns: int) -> Refusal:
    """The refusal of a request whose key's bucket is empty."""
    return Refusal(
        429,
        "rate-limited",
        "Too many requests",
        f"this API key may send {requests_per_minute} requests a minute",
        retry_after_s=max(-(-wait_ns // NS_PER_S), 1),
    )


def _ended(key: DoorKey, now_ms: int) -> Refusal | None:
    """Whoever shows the right secret may know what became of the key."""
    if key.revoked:
        return REVOKED
    is_over = key.expires_at_ms is not None and now_ms >= key.expires_at_ms
    return EXPIRED if is_over else None


def _is_preflight(method: str, path: str) -> bool:
    """A browser asks before it sends a key; the answer tells nothing and starts nothing."""
    return method == "OPTIONS" and (path in METERED or ("GET", path) in _KEYED)
