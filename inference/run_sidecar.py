"""Runs a host's sidecar: `python -m inference.run_sidecar`, next to `vllm serve`.

It registers the host's source in the billing store, keeps the snapshot of keys fresh, merges, and
publishes, each on a thread of its own, and says in `sidecar.json` how it stands. On SIGTERM or
SIGINT it waits until the processes of the host have ended, closes the source, and publishes what is
left: stop the server first, or at the same time. Killed, it goes on from where it was when it is
started again.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from sqlalchemy.exc import SQLAlchemyError

from inference.key_export import export_keys
from inference.outbox import OutboxReader, SourceIdentity
from inference.publisher import PublishedCounts
from inference.settings import InferenceSettings
from inference.sidecar import Sidecar, merge_until, publish_while
from inference.sidecar_status import SidecarStatus, State, write_status
from infra.endpoints import resolve
from infra.logs import start_logs
from infra.settings import InfraSettings
from infra.stop_request import StopRequest
from infra.store.engine import open_store
from infra.store.sources import register_source
from schemas.clock import Clock, SystemClock
from schemas.errors import RentrollError, ServerError
from schemas.units import NS_PER_MS

STATUS_S = 1.0
_log = logging.getLogger(__name__)


def run_sidecar(
    settings: InferenceSettings,
    clock: Clock,
    bootstrap: str,
    stop: StopRequest,
    *,
    on_opened: Callable[[SourceIdentity], None],
) -> int:
    """Merge and publish until told to stop and everything is merged and published.

    Args:
        settings: The host's folder, bounds, how long to wait at the end.
        clock: The host's.
        bootstrap: Kafka, `host:port[,host:port]`.
        stop: Set by another thread or a signal.
        on_opened: Called with who the host speaks as, before anything of that source is
            published; it registers the source. Whatever it raises ends the run.

    Returns:
        Events that are still to be published by a later run; 0 if the story is complete.

    Raises:
        SpoolError: If another sidecar serves this host, or the disk fails.
    """
    sidecar = Sidecar(settings, clock)
    drained = False
    merged = StopRequest()
    left: list[int] = []
    counts = PublishedCounts()
    begun: SimpleQueue[Path] = SimpleQueue()

    def on_rolled_over() -> None:
        _log.info("this host speaks as source %s from now on", sidecar.identity.source)
        on_opened(sidecar.identity)
        begun.put(sidecar.folder)

    def publish() -> None:
        drain_s = settings.drain_s
        left.append(
            publish_while(settings, bootstrap, merged, drain_s=drain_s, counts=counts, begun=begun)
        )

    try:
        on_opened(sidecar.identity)
        publishing = threading.Thread(target=publish, name="publish")
        publishing.start()
        told = _Told(sidecar, settings, clock, counts)
        try:
            with _telling(told, stop):
                drained = merge_until(
                    sidecar, stop, drain_s=settings.drain_s, on_rolled_over=on_rolled_over
                )
        finally:
            if drained:
                sidecar.close_source()
            merged.set()
            publishing.join()
            told.tell("closed" if drained else "left open")
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
        store = open_store(store_url)
        try:
            register_source(
                store,
                source=identity.source,
                host=identity.host,
                public_key=identity.key.public_key_hex(),
                registered_by=f"sidecar on {identity.host}",
                now_ms=clock.now_ns() // NS_PER_MS,
            )
        except SQLAlchemyError as error:
            raise _store_refuses(error) from error
        finally:
            store.dispose()

    return register


@contextmanager
def keys_kept_fresh(settings: InferenceSettings, store_url: str, clock: Clock) -> Iterator[None]:
    """Write the snapshot of keys at once, and every `door_keys_refresh_s` while the block runs.

    A store that is away later is waited for: doors live on the last snapshot.

    Raises:
        ServerError: If the store cannot be read at first.
    """
    if not settings.door_keys_refresh_s:
        yield
        return
    store = open_store(store_url)

    def refresh() -> None:
        try:
            export_keys(store, settings.door_keys_file, clock)
        except (SQLAlchemyError, OSError) as error:
            _log.warning("keys are not refreshed: %s", error)

    try:
        try:
            export_keys(store, settings.door_keys_file, clock)
        except SQLAlchemyError as error:
            raise _store_refuses(error) from error
        interval_s = settings.door_keys_refresh_s
        with _every(interval_s, "keys", refresh, first_after_s=interval_s):
            yield
    finally:
        store.dispose()


@contextmanager
def _every(
    interval_s: float, name: str, do: Callable[[], None], *, first_after_s: float
) -> Iterator[None]:
    """Call `do` again and again, on a thread of its own, while the block runs."""
    done = threading.Event()

    def repeat() -> None:
        wait_s = first_after_s
        while not done.wait(wait_s):
            do()
            wait_s = interval_s

    repeating = threading.Thread(target=repeat, name=name, daemon=True)
    repeating.start()
    try:
        yield
    finally:
        done.set()
        repeating.join()


class _Told:
    """Writes the sidecar's status; `tell` is called by one thread at a time."""

    def __init__(
        self,
        sidecar: Sidecar,
        settings: InferenceSettings,
        clock: Clock,
        counts: PublishedCounts,
    ) -> None:
        self._sidecar = sidecar
        self._counts = counts
        self._settings = settings
        self._clock = clock

    def tell(self, state: State) -> None:
        sidecar = self._sidecar
        # Its own connection: SQLite's are not shared between threads.
        reader = OutboxReader(sidecar.folder)
        try:
            unpublished, size_bytes = reader.backlog()
        finally:
            reader.close()
        status = SidecarStatus(
            pid=os.getpid(),
            source=sidecar.identity.source,
            state=state,
            events=sidecar.events,
            unpublished_events=unpublished,
            outbox_bytes=size_bytes,
            outbox_max_bytes=self._settings.outbox_max_bytes,
            rebuilds=self._counts.rebuilds,
            resent=self._counts.resent,
            engines=sidecar.engines,
            open_requests=sidecar.open_requests,
            living_writers=sidecar.living,
            merged_unix_ms=sidecar.merged_ms,
            written_unix_ms=self._clock.now_ns() // NS_PER_MS,
        )
        write_status(self._settings.host_folder, status)


@contextmanager
def _telling(told: _Told, stop: StopRequest) -> Iterator[None]:
    """Tell every second while the block runs."""

    def tell() -> None:
        try:
            told.tell("draining" if stop.is_set() else "open")
        except RentrollError as error:
            _log.warning("status is not written: %s", error)

    with _every(STATUS_S, "status", tell, first_after_s=0):
        yield


def _store_refuses(error: SQLAlchemyError) -> ServerError:
    told = str(getattr(error, "orig", None) or error)
    return ServerError(
        f"billing store: {told}. Bring it to the newest schema with `rentroll migrate`, or mend"
        " RENTROLL_STORE_URL"
    )


def servers_of(infra: InfraSettings) -> tuple[str, str]:
    """Kafka and the billing store; a host that serves needs no other server.

    Raises:
        ServerError: If one is not given, and no local stack runs.
    """
    if infra.kafka_bootstrap and infra.store_url:
        return infra.kafka_bootstrap, infra.store_url
    endpoints = resolve(infra)
    return endpoints.kafka_bootstrap, endpoints.store_url


def main() -> int:
    """Run with the settings and servers of the environment; 1 if events are left or it fails."""
    infra = InfraSettings()
    start_logs(infra, unset="text")
    stop = StopRequest()
    stop.on((signal.SIGTERM, signal.SIGINT))
    clock = SystemClock()
    try:
        settings = InferenceSettings()
        bootstrap, store_url = servers_of(infra)
        with keys_kept_fresh(settings, store_url, clock):
            left = run_sidecar(
                settings,
                clock,
                bootstrap,
                stop,
                on_opened=register_in_store(store_url, clock),
            )
    except RentrollError as error:
        _log.error("%s", error)
        return 1
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
