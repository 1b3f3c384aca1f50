"""Apportionment: largest remainder, ties by key, refused where nothing can be split."""

import pytest

from schemas.apportion import apportion
from schemas.errors import ConservationError


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (10, [1, 1], [5, 5]),
        (10, [1, 1, 1], [4, 3, 3]),
        (11, [1, 1, 1], [4, 4, 3]),
        (7, [0, 3, 4], [0, 3, 4]),
        (1, [1, 2], [0, 1]),
        (100, [1, 10**30], [0, 100]),
        (3, [5], [3]),
    ],
)
def test_parts_are_shares_by_largest_remainder(
    total: int, weights: list[int], parts: list[int]
) -> None:
    assert apportion(total, weights, [f"{index:03}" for index in range(len(weights))]) == parts


def test_equal_remainders_go_to_the_smaller_key_not_to_the_first() -> None:
    assert apportion(1, [1, 1, 1], ["c", "b", "a"]) == [0, 0, 1]


def test_nothing_splits_into_nothing_whatever_the_weights() -> None:
    assert apportion(0, [], []) == []
    assert apportion(0, [0, 0], ["a", "b"]) == [0, 0]
    assert apportion(0, [5, 7], ["a", "b"]) == [0, 0]


@pytest.mark.parametrize(
    ("total", "weights"), [(-1, [1]), (1, []), (1, [0, 0]), (1, [2, -1]), (5, [-3])]
)
def test_whole_that_cannot_be_split_is_refused(total: int, weights: list[int]) -> None:
    with pytest.raises(ConservationError, match=rf"cannot split total={total} over weights="):
        apportion(total, weights, [str(index) for index in range(len(weights))])
