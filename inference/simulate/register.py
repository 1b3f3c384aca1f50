"""Registers a simulation's sources with the billing store; apart, for simulating needs no store."""

from sqlalchemy import Engine

from inference.simulate.emitted import Emitted
from infra.store.sources import register_source


def register_sources(store: Engine, emitted: Emitted, *, now_ms: int) -> None:
    """Make the billing store trust the simulation's sources; again changes nothing.

    Raises:
        ContractError: If one is registered with another key.
    """
    for source in emitted.sources:
        register_source(
            store,
            source=source.source,
            host=source.host,
            public_key=source.public_key,
            registered_by="rentroll simulate",
            now_ms=now_ms,
        )
