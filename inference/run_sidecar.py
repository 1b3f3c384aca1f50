"""Runs a host's sidecar: `python -m inference.run_sidecar`, next to `vllm serve`.

It registers the host's source in the billing store, merges, and publishes, each on a thread of its
own. On SIGTERM or SIGINT it waits until the processes of the host have ended, closes the source,
and publishes what is left: stop the server first, or at the same time. Killed, it goes on from
where it was when it is started again.
"""

import logging
import signal
import sys
import threading
from collections.abc import Callable

from inference.outbox import SourceIdentity
from inference.settings import InferenceSettings
from inference.sidecar import Sidecar, merge_until, publish_while
from infra.endpoints import resolve
from infra.settings import InfraSettings
from infra.store.engine import open_store
from infra.store.sources import register_source
from schemas.clock import Clock, SystemClock
from schemas.errors import RentrollError
from schemas.units import NS_PER_MS

_log = logging.getLogger(__name__)


def run_sidecar(
    settings: InferenceSettings,
    clock: Clock,
    bootstrap: str,
    stop: threading.Event,
    *,
    on_opened: Callable[[SourceIdentity], None],
) -> int:
    """Merge and publish until told to stop and everything is merged and published.

    Args:
        settings: The host's folder, bounds, how long to wait at the end.
        clock: The host's.
        bootstrap: Kafka, `host:port[,host:port]`.
        stop: Set by another thread or a signal.
        on_opened: Called once with who the host speaks as, before anything is published; it
            registers the source. Whatever it raises ends the run.

    Returns:
        Events that are still to be published by a later run; 0 if the story is complete.

    Raises:
        SpoolError: If another sidecar serves this host, or the disk fails.
    """
    sidecar = Sidecar(settings, clock)
    drained = False
    merged = threading.Event()
    left: list[int] = []
    try:
        on_opened(sidecar.identity)
        publishing = threading.Thread(
            target=lambda: left.append(
                publish_while(settings, bootstrap, merged, drain_s=settings.drain_s)
            ),
            name="publish",
        )
        publishing.start()
        try:
            drained = merge_until(sidecar, stop, drain_s=settings.drain_s)
        finally:
            if drained:
                sidecar.close_source()
            merged.set()
            publishing.join()
    finally:
        sidecar.close()
    if not drained:
        _log.warning(
            "processes of this host did not end within %d s: its source stays open",
            settings.drain_s,
        )
    return left[0] if left else sidecar.events


def register_in_store(store_url: str, clock: Clock) -> Callable[[SourceIdentity], None]:
    """What `run_sidecar` calls: the source's public key goes into the billing store."""

    def register(identity: SourceIdentity) -> None:
        register_source(
            open_store(store_url),
            source=identity.source,
            host=identity.host,
            public_key=identity.key.public_key_hex(),
            registered_by=f"sidecar on {identity.host}",
            now_ms=clock.now_ns() // NS_PER_MS,
        )

    return register


def main() -> int:
    """Run with the settings and servers of the environment; 1 if events are left or it fails."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    clock = SystemClock()
    try:
        endpoints = resolve(InfraSettings())
        left = run_sidecar(
            InferenceSettings(),
            clock,
            endpoints.kafka_bootstrap,
            stop,
            on_opened=register_in_store(endpoints.store_url, clock),
        )
    except RentrollError as error:
        _log.error("%s", error)
        return 1
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
