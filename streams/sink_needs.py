"""What the sink needs from outside: a group, an outbox for dead letters, a decoder, a hook."""

from collections.abc import Callable, Sequence
from typing import Protocol

from streams.decode import Decoded

Place = tuple[str, int]
"""A topic and a partition of it."""
Hook = Callable[[str], None]
"""Called between the steps of the protocol; tests kill the process in it."""

Decoder = Callable[[str, int, Sequence[int], Sequence[bytes | None]], Decoded]
"""Topic, partition, offsets and values of a run of records to what becomes of them."""


class Group(Protocol):
    """The consumer group, as far as the sink needs it."""

    @property
    def generation(self) -> int: ...
    @property
    def settled(self) -> bool: ...
    async def commit(self, topic: str, partition: int, offset: int, metadata: str) -> None: ...
    async def committed(self, topic: str, partition: int) -> tuple[int, str] | None: ...
    async def log_start(self, topic: str, partition: int) -> int: ...
    async def go_back(self, topic: str, partition: int, offset: int) -> None: ...
    async def reread(self, topic: str, partition: int, offset: int) -> bytes: ...


class Outbox(Protocol):
    """Takes `(key, value)` pairs for `dlq.v1`; returns when all the broker's replicas have them."""

    async def send(self, records: Sequence[tuple[str, bytes]]) -> None: ...


def no_hook(_step: str) -> None:
    """Between the steps nothing happens, normally."""
