"""Splits a whole number over integer weights so that the parts add up to it exactly."""

from collections.abc import Sequence

from schemas.errors import ConservationError


def apportion(total: int, weights: Sequence[int], ties: Sequence[str]) -> list[int]:
    """Split `total` in proportion to `weights` by the largest-remainder method (Hamilton).

    Everyone first gets the floor of the exact share; what is left over goes, one unit each, to
    the largest remainders, and of equal remainders to the smaller tie key. Integers only, so
    every language and machine gets the same parts.

    Args:
        total: The whole, in any unit, zero or more.
        weights: One weight per part, zero or more, not all zero (unless `total` is 0).
        ties: One distinct key per part, compared as text.

    Returns:
        One integer per weight, in the same order; they sum to `total`.

    Raises:
        ConservationError: If the whole cannot be split: negative total, negative or no weight.
    """
    if total == 0:
        return [0] * len(weights)
    whole_weight = sum(weights)
    if total < 0 or whole_weight <= 0 or min(weights) < 0:
        raise ConservationError(f"cannot split total={total} over weights={list(weights)[:8]}")
    parts: list[int] = []
    remainders: list[int] = []
    for weight in weights:
        share, remainder = divmod(total * weight, whole_weight)
        parts.append(share)
        remainders.append(remainder)
    left = total - sum(parts)
    if left:
        order = sorted(range(len(parts)), key=lambda index: (-remainders[index], ties[index]))
        for index in order[:left]:
            parts[index] += 1
    return parts
