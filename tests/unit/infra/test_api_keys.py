"""The text and the hash of an API key."""

import pytest
from pydantic import ValidationError

from infra.api_keys import (
    ENTROPY_BYTES,
    KeyTerms,
    PresentedKey,
    is_secret_of,
    new_key,
    parse_key,
    secret_hash,
)

KEY = new_key(bytes(range(ENTROPY_BYTES)))


def test_key_survives_its_text() -> None:
    assert parse_key(KEY.text()) == KEY
    assert KEY.text().startswith("rr_")
    assert KEY.key_id not in KEY.text()


def test_key_is_made_of_the_right_number_of_bytes() -> None:
    with pytest.raises(ValueError, match="42 random bytes, not 41"):
        new_key(bytes(ENTROPY_BYTES - 1))


@pytest.mark.parametrize(
    "text",
    ["", "rr_", "sk-abc", KEY.text()[:-1], KEY.text() + "A", KEY.text() + "\n", "rr_ä_" + "A" * 43],
)
def test_what_does_not_look_like_a_key_is_none(text: str) -> None:
    assert parse_key(text) is None


def test_hash_fits_its_own_key_only() -> None:
    kept = secret_hash(KEY)
    assert is_secret_of(KEY, kept)
    assert not is_secret_of(KEY._replace(secret=KEY.secret[:-2] + "AA"), kept)
    assert not is_secret_of(PresentedKey("key_" + "a" * 16, KEY.secret), kept)


def test_hash_never_changes_between_versions() -> None:
    # Changed, and every key that was ever given out stops working.
    kept = "0661a4a37296a2038b70d8d572ed05d072daa87344c5c31d59978e1bae72e5d0"
    assert secret_hash(KEY) == kept


@pytest.mark.parametrize(
    "change",
    [
        {"scopes": ()},
        {"scopes": ("root",)},
        {"service_tiers": ()},
        {"service_tiers": ("gold",)},
        {"requests_per_minute": 0},
        {"tenant": "ac me"},
        {"label": "line\nbreak"},
    ],
)
def test_terms_that_mean_nothing_are_refused(change: dict[str, object]) -> None:
    usual = {"tenant": "acme", "project": "p", "label": "", "scopes": ("inference",)}
    usual |= {"service_tiers": ("standard",)}
    KeyTerms.model_validate(usual)
    with pytest.raises(ValidationError):
        KeyTerms.model_validate(usual | change)
