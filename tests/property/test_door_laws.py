"""Laws of the door: bodies, buckets, tiers, keys and counts, for any input."""

import json
from fractions import Fraction
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from inference.door import RateLimiter, Refusal, authenticate, served_tier
from inference.door_body import ENGINES_ONLY, Rewriting, read_fields, rewritten
from inference.door_delivery import Delivery
from inference.door_keys import KeyIndex
from infra.api_keys import SERVICE_TIERS, parse_key
from schemas.units import NS_PER_S
from tests.support.doors import NOW_MS, door_key, presented, snapshot

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
NAMES = st.text() | st.sampled_from(["cache_salt", "prompt", "n", "user", *ENGINES_ONLY])
CHANGE = Rewriting(
    request="019a0000-0000-7000-8000-000000000001", cache_salt="s", tier="standard", priority=3
)
INDEX = KeyIndex(snapshot([door_key(1)]))


@given(st.dictionaries(NAMES, VALUES), st.sampled_from(["utf-8", "utf-8-sig", "utf-16-le"]))
def test_rewriting_changes_the_doors_fields_and_no_other(
    body: dict[str, Any], encoding: str
) -> None:
    fields = read_fields(json.dumps(body).encode(encoding))
    assert fields is not None
    found = json.loads(rewritten(fields, "v1/completions", CHANGE))
    ours = {"priority": 3, "cache_salt": "s"}
    theirs = {
        name: value for name, value in body.items() if name not in {"cache_salt", *ENGINES_ONLY}
    }
    assert found == theirs | ours


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_what_python_reads_as_an_object_is_always_rewritten(body: bytes) -> None:
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if isinstance(value, dict):
        assert read_fields(body) is not None


@given(
    st.integers(1, 1_000),
    st.lists(st.integers(0, 5 * NS_PER_S), min_size=1, max_size=200),
)
def test_limiter_grants_what_an_exact_token_bucket_does(
    per_minute: int, pauses_ns: list[int]
) -> None:
    limiter, now_ns = RateLimiter(), 0
    step_ns = -(-60 * NS_PER_S // per_minute)
    tokens = Fraction(per_minute)
    for pause_ns in pauses_ns:
        now_ns += pause_ns
        tokens = min(tokens + Fraction(pause_ns, step_ns), Fraction(per_minute))
        wait_ns = limiter.take("k", per_minute, now_ns)
        assert (wait_ns == 0) == (tokens >= 1)
        if wait_ns == 0:
            tokens -= 1
        else:
            assert tokens + Fraction(wait_ns, step_ns) == 1


@given(
    st.sampled_from(["", "auto", "default", "gold", *SERVICE_TIERS]),
    st.sets(st.sampled_from(SERVICE_TIERS)),
    st.booleans(),
)
def test_tier_is_never_above_wish_key_or_engine(
    asked: str, allowed: set[str], by_priority: bool
) -> None:
    served = served_tier(asked, allowed, by_priority=by_priority)
    wish = SERVICE_TIERS.index(asked) if asked in SERVICE_TIERS else 2
    ceiling = wish if by_priority else min(wish, 2)
    if served is None:
        assert not allowed & set(SERVICE_TIERS[: ceiling + 1])
    else:
        assert served in allowed
        assert SERVICE_TIERS.index(served) <= ceiling


@given(st.integers(0, 60), st.characters(max_codepoint=0x7F))
def test_key_with_one_character_changed_opens_nothing(place: int, other: str) -> None:
    text = presented(1).text()
    place = min(place, len(text) - 2)  # the last carries padding bits that nobody reads
    assume(text[place] != other)
    forged = text[:place] + other + text[place + 1 :]
    assert isinstance(authenticate([f"Bearer {forged}".encode()], INDEX, NOW_MS), Refusal)
    assert parse_key(forged) != presented(1)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(0, 200),
    st.booleans(),
    st.sampled_from(["v1/completions", "v1/chat/completions"]),
    st.text(),
)
def test_delivered_is_what_was_sent_wherever_the_stream_is_cut(
    sizes: list[int], parts: int, cut: int, hooked: bool, endpoint: str, text: str
) -> None:
    delivery = Delivery(endpoint, parts)
    delivery.started(200, b"text/event-stream")
    sizes = sizes if hooked else [1] * len(sizes)
    role = {"delta": {"role": "assistant", "content": ""}}
    chunks = [(0, role)] * parts if endpoint.endswith("chat/completions") else []
    chunks += [(size, {"delta": {"content": text}}) for size in sizes for _ in range(parts)]
    if hooked:
        delivery.engine_called(parts)
    sent = 0
    for tokens, choice in chunks[:cut]:
        if hooked:
            delivery.handed(tokens)
        sent += tokens
        value = json.dumps({"choices": [choice]}, separators=(",", ":"), ensure_ascii=False)
        delivery.sent(b"data: " + value.encode(errors="surrogatepass") + b"\n\n")
    delivery.gone = True
    ending = delivery.read_end()
    assert ending.delivered_tokens == sent
    assert (ending.ending, ending.status) == ("aborted", 499)
