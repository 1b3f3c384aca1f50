"""A real Kafka broker for tests: by URL, in a container, or as a local process."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.kafka.local import LocalKafka
from infra.ports import choose_port
from tests.support.servers.away_and_back import AwayAndBack
from tests.support.servers.engine import container_engine_answers

IMAGE = "apache/kafka:4.4.0"


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
    broker = _broker_in(folder)
    with AwayAndBack(broker.server(log=folder / "printed.log")):
        yield broker


class KafkaAwayAndBack(AwayAndBack):
    """A broker with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        broker = _broker_in(folder)
        self.bootstrap = f"127.0.0.1:{broker.port}"
        super().__init__(broker.server(log=folder / "printed.log"))


def _broker_in(folder: Path) -> LocalKafka:
    port = choose_port(str(folder))
    return LocalKafka(folder, port, choose_port(str(folder), {port}))


@contextmanager
def _in_a_container() -> Iterator[str]:
    from testcontainers.kafka import KafkaContainer

    with KafkaContainer(IMAGE).with_kraft() as container:
        yield container.get_bootstrap_server()
