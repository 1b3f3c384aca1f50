"""What the door decides: routes, keys, tiers, limits."""

import pytest

from inference.door import (
    EXPIRED,
    NO_KEY,
    NO_SCOPE,
    REVOKED,
    WRONG_KEY,
    Bearer,
    RateLimiter,
    Refusal,
    authenticate,
    may_use,
    path_below_root,
    route_kind,
    served_tier,
    too_many,
)
from inference.door_keys import KeyIndex
from schemas.units import NS_PER_S
from tests.support.doors import NOW_MS, bearer, door_key, door_tenant, presented, snapshot

INDEX = KeyIndex(
    snapshot([door_key(1), door_key(2, revoked=True), door_key(3, expires_at_ms=NOW_MS)])
)


def says(*authorization: str) -> Bearer | Refusal:
    return authenticate([one.encode("latin-1") for one in authorization], INDEX, NOW_MS)


def test_right_key_names_its_tenant() -> None:
    found = says(bearer(1))
    assert isinstance(found, Bearer)
    assert (found.key.project, found.tenant.tenant) == ("chatbot", "acme")
    assert says(f"bearer   {presented(1).text()} ") == found


@pytest.mark.parametrize(
    ("authorization", "refusal"),
    [
        ([], NO_KEY),
        ([bearer(1), bearer(1)], NO_KEY),
        (["Basic YTpi"], NO_KEY),
        ([presented(1).text()], NO_KEY),
        (["Bearer "], WRONG_KEY),
        (["Bearer sk-123"], WRONG_KEY),
        ([bearer(9)], WRONG_KEY),
        ([bearer(1)[:-1] + "\xe9"], WRONG_KEY),
        ([f"Bearer {presented(1)._replace(secret=presented(9).secret).text()}"], WRONG_KEY),
        ([bearer(2)], REVOKED),
        ([bearer(3)], EXPIRED),
    ],
)
def test_everything_else_is_turned_away(authorization: list[str], refusal: Refusal) -> None:
    assert says(*authorization) == refusal


def test_wrong_secret_of_an_ended_key_does_not_say_that_it_ended() -> None:
    forged = presented(2)._replace(secret=presented(9).secret)
    assert says(f"Bearer {forged.text()}") == WRONG_KEY


def test_key_whose_tenant_is_missing_opens_nothing() -> None:
    index = KeyIndex(snapshot([door_key(1)], [door_tenant("globex")]))
    assert authenticate([bearer(1).encode()], index, NOW_MS) == WRONG_KEY


def test_key_is_valid_up_to_its_last_millisecond() -> None:
    assert isinstance(authenticate([bearer(3).encode()], INDEX, NOW_MS - 1), Bearer)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "v1/completions", "metered"),
        ("POST", "v1/chat/completions", "metered"),
        ("GET", "v1/chat/completions", None),
        ("POST", "v1/Completions", None),
        ("POST", "v1/completions/", None),
        ("OPTIONS", "v1/completions", "public"),
        ("OPTIONS", "metrics", None),
        ("GET", "health", "public"),
        ("HEAD", "health", None),
        ("GET", "v1/models", "keyed"),
        ("GET", "v1/models/tiny", None),
        ("GET", "metrics", "operator"),
        ("POST", "v1/load_lora_adapter", "operator"),
        ("GET", "docs", None),
        ("GET", "", None),
    ],
)
def test_route_is_what_the_list_says(method: str, path: str, kind: str | None) -> None:
    assert route_kind(method, path) == kind


@pytest.mark.parametrize(
    ("path", "root", "below"),
    [
        ("/v1/models", "", "v1/models"),
        ("/api/v1/models", "/api", "v1/models"),
        ("/api/v1/models", "/api/", "v1/models"),
        ("/apiv1/models", "/api", "apiv1/models"),
        ("/v1/models", "/api", "v1/models"),
        ("//v1/models", "", "/v1/models"),
    ],
)
def test_root_path_is_taken_off_as_the_server_does(path: str, root: str, below: str) -> None:
    assert path_below_root(path, root) == below


@pytest.mark.parametrize(
    ("scopes", "kind", "opens"),
    [
        (("inference",), "metered", True),
        (("inference",), "keyed", True),
        (("inference",), "operator", False),
        (("operator",), "operator", True),
        (("operator",), "metered", False),
        (("inference", "operator"), "operator", True),
    ],
)
def test_scope_opens_its_own_routes_only(scopes: tuple[str, ...], kind: str, opens: bool) -> None:
    who = Bearer(door_key(scopes=scopes), door_tenant())
    assert may_use(who, kind) == (None if opens else NO_SCOPE)  # type: ignore[arg-type]


def test_suspension_stops_requests_and_lets_the_operator_look() -> None:
    who = Bearer(door_key(scopes=("inference", "operator")), door_tenant(suspended=True))
    refusal = may_use(who, "metered")
    assert refusal is not None
    assert (refusal.status, refusal.code) == (403, "tenant-suspended")
    assert may_use(who, "operator") is None


@pytest.mark.parametrize(
    ("asked", "allowed", "by_priority", "served"),
    [
        ("", ("standard",), True, "standard"),
        ("auto", ("standard", "priority"), True, "standard"),
        ("default", ("standard", "priority"), True, "standard"),
        ("gold", ("standard",), True, "standard"),
        ("priority", ("standard", "priority"), True, "priority"),
        ("priority", ("standard", "priority"), False, "standard"),
        ("priority", ("standard", "flex"), True, "standard"),
        ("priority", ("batch",), True, "batch"),
        ("", ("flex",), True, "flex"),
        ("flex", ("standard",), True, None),
        ("", ("priority",), True, None),
        ("batch", ("batch", "standard"), False, "batch"),
    ],
)
def test_tier_is_capped_by_key_wish_and_engine(
    asked: str, allowed: tuple[str, ...], by_priority: bool, served: str | None
) -> None:
    assert served_tier(asked, allowed, by_priority=by_priority) == served


def test_bucket_empties_and_fills_evenly() -> None:
    limiter = RateLimiter()
    taken = [limiter.take("k", 60, 0) for _ in range(61)]
    assert taken == [0] * 60 + [NS_PER_S]
    assert limiter.take("k", 60, NS_PER_S - 1) == 1
    assert limiter.take("k", 60, NS_PER_S) == 0
    assert limiter.take("k", 60, NS_PER_S) == NS_PER_S
    assert limiter.take("other", 60, NS_PER_S) == 0


def test_buckets_of_keys_that_are_no_more_are_forgotten() -> None:
    limiter = RateLimiter()
    for key in ("a", "b"):
        limiter.take(key, 1, 0)
    limiter.forget_all_but({"b", "c"})
    assert len(limiter) == 1
    assert limiter.take("b", 1, 0) > 0
    assert limiter.take("a", 1, 0) == 0


def test_wait_is_rounded_up_to_whole_seconds() -> None:
    assert too_many(5, 1).retry_after_s == 1
    assert too_many(5, NS_PER_S + 1).retry_after_s == 2
