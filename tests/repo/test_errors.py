"""The tree at the top of schemas/errors.py is the real tree."""

import schemas.errors
from schemas.errors import RentrollError


def drawn() -> list[str]:
    lines = (schemas.errors.__doc__ or "").splitlines()
    return [line for line in lines[1:] if line.strip()]


def actual(error: type[RentrollError], depth: int = 0) -> list[str]:
    below = [line for sub in error.__subclasses__() for line in actual(sub, depth + 1)]
    return ["  " * depth + error.__name__, *below]


def test_error_tree_in_the_docstring_is_current() -> None:
    assert drawn() == actual(RentrollError)
