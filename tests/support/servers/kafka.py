"""A real Kafka broker for tests: by URL, in a container, or as a local process."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.kafka.local import LocalKafka
from infra.local_server import launch, stop, wait_until_ready
from infra.ports import choose_port
from tests.support.servers.engine import container_engine_answers

IMAGE = "apache/kafka:4.4.0"
START_TIMEOUT_S = 90


@contextmanager
def kafka() -> Iterator[str]:
    """`host:port` of a broker that is empty unless its URL came from outside."""
    given = os.environ.get("RENTROLL_TEST_KAFKA_BOOTSTRAP")
    if given:
        yield given
    elif container_engine_answers():
        with _in_a_container() as bootstrap:
            yield bootstrap
    else:
        with (
            tempfile.TemporaryDirectory(prefix="rentroll-kafka-") as folder,
            local_kafka(Path(folder)) as broker,
        ):
            yield f"127.0.0.1:{broker.port}"


@contextmanager
def local_kafka(folder: Path) -> Iterator[LocalKafka]:
    """A broker as a local process with its data in `folder`."""
    port = choose_port(str(folder))
    broker = LocalKafka(folder, port, choose_port(str(folder), {port}))
    server = broker.server(log=folder / "printed.log")
    process = launch(server)
    try:
        wait_until_ready(server, process, START_TIMEOUT_S)
        yield broker
    finally:
        stop(process)


class AwayAndBack:
    """A local broker that can go away, and comes back with its data on the same port."""

    def __init__(self, folder: Path) -> None:
        port = choose_port(str(folder))
        self.bootstrap = f"127.0.0.1:{port}"
        broker = LocalKafka(folder, port, choose_port(str(folder), {port}))
        self._server = broker.server(log=folder / "printed.log")
        self.start()

    def start(self) -> None:
        """From the main thread."""
        self._process = launch(self._server)
        wait_until_ready(self._server, self._process, START_TIMEOUT_S)

    def stop(self) -> None:
        stop(self._process)

    def freeze(self) -> None:
        """Its connections stay, and nothing answers on them."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)


@contextmanager
def _in_a_container() -> Iterator[str]:
    from testcontainers.kafka import KafkaContainer

    with KafkaContainer(IMAGE).with_kraft() as container:
        yield container.get_bootstrap_server()
