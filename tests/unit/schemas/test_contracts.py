"""What holds for every contract: frozen, strict, one canonical text, exact amounts."""

import json
from fractions import Fraction

import pytest
from pydantic import ValidationError

from schemas.billing import RatedLine
from schemas.clock import FixedClock, SystemClock, utc
from schemas.fields import Contract
from schemas.fleet import signed_bytes
from schemas.generate import CONTRACTS
from tests.support.examples import load


class Sample(Contract):
    """A contract to which a later version added `later`."""

    b: str
    a: int
    later: tuple[str, ...] = ()


def test_canonical_text_is_sorted_and_leaves_defaults_out() -> None:
    assert Sample(b="ü", a=1).canonical_json() == '{"a":1,"b":"ü"}'
    assert Sample(b="x", a=1, later=("y",)).canonical_json() == '{"a":1,"b":"x","later":["y"]}'


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_every_contract_is_frozen_strict_and_closed(name: str) -> None:
    config = CONTRACTS[name].model_config
    assert (config.get("frozen"), config.get("strict"), config.get("extra")) == (
        True,
        True,
        "forbid",
    )


def test_a_contract_cannot_be_changed_once_it_is_read() -> None:
    sample = Sample(b="x", a=1)
    with pytest.raises(ValidationError, match="frozen"):
        sample.a = 2  # type: ignore[misc]


def test_a_rated_line_is_named_by_what_makes_it_one_line() -> None:
    line = RatedLine.model_validate_json(json.dumps(load("rated_line--billed")))
    assert line.key() == "llama-3.3-70b||standard|input_uncached_tokens|llama-70b-input"


def test_amount_of_a_rated_line_is_exact() -> None:
    line = RatedLine.model_validate_json(json.dumps(load("rated_line--billed")))
    assert line.amount() == Fraction(7_480_000 * 45, 100 * 1_000_000)


def test_the_bytes_under_a_signature_never_change() -> None:
    """Signatures of the past are verified against them, and `purpose` keeps them apart."""
    assert (
        signed_bytes("s", "interval", 1, 9, "ab") == b"rentroll.range.v1\ns\ninterval\n1\n9\nab\n"
    )
    assert signed_bytes("s", "closed", 1, 9, "ab") != signed_bytes("s", "interval", 1, 9, "ab")


def test_a_fixed_clock_moves_only_forward() -> None:
    clock = FixedClock(1_000)
    clock.advance(500)
    assert clock.now_ns() == 1_500
    with pytest.raises(ValueError, match="-1"):
        clock.advance(-1)


def test_the_system_clock_and_utc_agree_on_the_century() -> None:
    assert utc(SystemClock().now_ns()).year >= 2026
    assert utc(1_791_208_987_412_345_678).isoformat() == "2026-10-05T14:03:07.412345+00:00"
