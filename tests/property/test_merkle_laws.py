"""Merkle roots: those of RFC 9162's own recursion, and of no other list of leaves."""

import hashlib
import importlib.util
from pathlib import Path

from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.merkle import merkle_root

lists = st.lists(st.binary(max_size=8), max_size=40)
VERIFY = Path(__file__).parents[2] / "docs" / "verify.py"


def by_recursion(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = by_recursion(leaves[:split]), by_recursion(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


@given(lists)
def test_root_is_the_rfcs(leaves: list[bytes]) -> None:
    assert merkle_root(leaves) == by_recursion(leaves)


@given(lists)
def test_stranger_computes_the_same_root(leaves: list[bytes]) -> None:
    spec = importlib.util.spec_from_file_location("verify", VERIFY)
    assert spec is not None
    assert spec.loader is not None
    verify = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(verify)
    assert verify.merkle_root(leaves) == merkle_root(leaves)


@given(lists, lists)
def test_other_leaves_have_another_root(leaves: list[bytes], others: list[bytes]) -> None:
    assume(leaves != others)
    assert merkle_root(leaves) != merkle_root(others)
