"""What whoever keeps objects can do: write a name once, write, read, list."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that is there: its name below the root, with `/` between parts, and its size."""

    name: str
    size_bytes: int


class Objects(Protocol):
    """Objects below one root.

    Every method raises `schemas.errors.ServerError` if the storage cannot be used; the same call
    may succeed later.
    """

    def put_new(self, name: str, content: bytes) -> bool:
        """Write an object under a name that is free; False, and nothing changed, if it is not.

        Of several writers at once exactly one succeeds. What was written stays after a power cut.
        """
        ...

    def put(self, name: str, content: bytes) -> None:
        """Write an object, or replace it; a reader sees the old one or the new one, whole."""
        ...

    def get(self, name: str) -> bytes | None:
        """The content of an object; None if there is none of that name."""
        ...

    def listed(self, prefix: str) -> Iterator[StoredObject]:
        """Objects whose names begin with `prefix` and a `/`, in no order; all if it is empty."""
        ...
