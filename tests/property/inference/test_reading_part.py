"""How much of all groups is bound by reading: the same as by looking at every group."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from inference.fixed_marginal import LARGEST, MOMENTS, reading_part

SIXTEENTHS = 2 * MOMENTS
small = st.integers(1, 60)
large = st.integers(1, 4_000)


@given(
    st.integers(1, 500),
    st.integers(0, 500),
    st.lists(small, max_size=6),
    st.lists(large, max_size=2),
)
def test_alpha_counts_every_group_at_every_moment(
    weights: int, hidden: int, some: list[int], others: list[int]
) -> None:
    calculating = [*some, *others] or [weights + 1]
    largest = sorted(calculating, reverse=True)[:LARGEST]
    slope = hidden - (sum(calculating) - sum(largest))
    alpha = 0
    for size in range(len(largest) + 1):
        for group in combinations(largest, size):
            for t in range(1, SIXTEENTHS, 2):
                if SIXTEENTHS * (sum(group) - weights) < t * slope:
                    alpha += t**size * (SIXTEENTHS - t) ** (len(largest) - size)
    whole = MOMENTS * SIXTEENTHS ** len(largest)
    assert reading_part(weights, hidden, calculating) == (alpha, whole)
