"""A broker that lets a group give up a dead member at once; Kafka's own least is six seconds."""

import argparse
import dataclasses
from pathlib import Path

from infra.kafka.local import LocalKafka
from infra.local_server import LocalServer
from infra.ports import choose_port
from tests.support.servers.away_and_back import AwayAndBack


class HastyKafka(LocalKafka):
    """`LocalKafka` with one property more."""

    def properties(self) -> str:
        return super().properties() + "group.min.session.timeout.ms=100\n"

    def server(self, log: Path) -> LocalServer:
        plain = super().server(log)
        # Without -P: the tests are found in the working folder, not among what is installed.
        command = tuple(
            __name__ if part == LocalKafka.__module__ else part
            for part in plain.command
            if part != "-P"
        )
        return dataclasses.replace(plain, command=command)


class HastyKafkaAwayAndBack(AwayAndBack):
    """Such a broker with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        port = choose_port(str(folder))
        broker = HastyKafka(folder, port, choose_port(str(folder), {port}))
        self.bootstrap = f"127.0.0.1:{port}"
        super().__init__(broker.server(log=folder / "printed.log"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--controller-port", type=int, required=True)
    parser.add_argument("--heap-mb", type=int, default=384)
    parser.add_argument("--jars", type=Path)
    given = parser.parse_args()
    HastyKafka(given.data, given.port, given.controller_port, given.heap_mb, given.jars).become()


if __name__ == "__main__":
    main()
