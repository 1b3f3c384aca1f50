"""One Apache Kafka broker as a local process, in KRaft mode, with its data in a folder.

`python -m infra.kafka.local --data DIR --port N --controller-port N` runs it in the foreground.
"""

import argparse
import base64
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.guard import guarded
from infra.kafka.class_archive import archive_options
from infra.kafka.jars import default_cache, fetch_jars, find_java
from infra.kafka.probe import cluster_of
from infra.local_server import LocalServer
from infra.ports import LOOPBACK
from schemas.errors import RentrollError, ServerStartError

MAIN, STORAGE_TOOL = "kafka.Kafka", "kafka.tools.StorageTool"
FORMATTED = "meta.properties"
SHORT_LIVED = ("-XX:TieredStopAtLevel=1",)
"""For a program that ends before an optimising compiler pays."""

LOGGING = """\
Configuration:
  status: error
  Appenders:
    RollingFile:
      name: file
      fileName: "{log}"
      filePattern: "{log}.%i"
      PatternLayout:
        pattern: "%d{{yyyy-MM-dd HH:mm:ss,SSS}} %-5p %c{{1}}: %m%n"
      SizeBasedTriggeringPolicy:
        size: 20MB
      DefaultRolloverStrategy:
        max: 2
  Loggers:
    Root:
      level: info
      AppenderRef:
        ref: file
    Logger:
      # Thousands of lines per start that repeat server.properties.
      - name: org.apache.kafka.common.config.AbstractConfig
        level: warn
"""


@dataclass(frozen=True, slots=True)
class LocalKafka:
    """One broker: its folder, its two ports on 127.0.0.1, and its heap."""

    data: Path
    port: int
    controller_port: int
    heap_mb: int = 384
    jars: Path | None = None

    @property
    def log_dir(self) -> Path:
        """Where Kafka keeps its partitions."""
        return self.data / "kraft"

    @property
    def cluster_id(self) -> str:
        """The same for the same folder: the probe knows this broker from a stranger's."""
        digest = hashlib.sha256(str(self.data.resolve()).encode()).digest()
        return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()

    @property
    def server_log(self) -> Path:
        """Kafka's own log."""
        return self.data / "server.log"

    def properties(self) -> str:
        """The server.properties of a single node; every `replication.factor` must say 1."""
        plain, control = f"PLAINTEXT://{LOOPBACK}:{self.port}", f"{LOOPBACK}:{self.controller_port}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"{plain},CONTROLLER://{control}",
            "advertised.listeners": plain,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.quorum.bootstrap.servers": control,
            "log.dirs": str(self.log_dir.resolve()),
            "num.partitions": "1",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    def first_users(self) -> tuple[str, ...]:
        """Options that tell a new broker of users; none where nobody has to show who it is."""
        return ()

    def java_command(
        self, java: str, jars: Path, options: Sequence[str], *program: str
    ) -> list[str]:
        """A JVM that runs one of Kafka's programs and gives up at once when memory is short."""
        return [
            java,
            *options,
            f"-Xmx{self.heap_mb}m",
            f"-Xms{min(self.heap_mb, 128)}m",
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={(self.data / 'log4j2.yaml').resolve()}",
            "-cp",
            f"{jars}/*",
            *program,
        ]

    def server(self, log: Path) -> LocalServer:
        """This broker as a process that a stack or a test runs; `log` takes what it prints."""
        command = [sys.executable, "-P", "-m", "infra.kafka.local", "--data", str(self.data)]
        command += ["--port", str(self.port), "--controller-port", str(self.controller_port)]
        command += ["--heap-mb", str(self.heap_mb)]
        if self.jars is not None:
            command += ["--jars", str(self.jars)]
        address = f"{LOOPBACK}:{self.port}"
        return LocalServer(
            name="kafka",
            address=address,
            command=tuple(command),
            log=log,
            own_log=self.server_log,
            probe=lambda: cluster_of(address) == self.cluster_id,
        )

    def write_files(self) -> Path:
        """Write what the broker reads; returns the path of server.properties."""
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "log4j2.yaml").write_text(LOGGING.format(log=self.server_log.resolve()))
        properties = self.data / "server.properties"
        properties.write_text(self.properties())
        return properties

    def become(self) -> None:
        """Fetch the jars, format the folder once, then turn this process into the broker.

        Raises:
            ServerStartError: If Java or the jars are missing, or the folder cannot be formatted.
        """
        java, jars = find_java(), fetch_jars(self.jars or default_cache())
        properties = self.write_files()
        if not (self.log_dir / FORMATTED).exists():
            # One word: an id may begin with a dash, which Kafka would take for an option.
            identity = f"--cluster-id={self.cluster_id}"
            options = ("--standalone", identity, "-c", str(properties), *self.first_users())
            command = self.java_command(java, jars, SHORT_LIVED, STORAGE_TOOL, "format", *options)
            done = subprocess.run(guarded(command), capture_output=True, text=True, check=False)  # noqa: S603
            if done.returncode != 0:
                raise ServerStartError(
                    f"Kafka cannot format {self.log_dir}: {done.stdout}{done.stderr}"
                )
        archive = archive_options(java, jars)
        os.execv(java, self.java_command(java, jars, archive, MAIN, str(properties)))  # noqa: S606


def main() -> None:
    """Run a broker in the foreground; SIGTERM stops it cleanly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--controller-port", type=int, required=True)
    parser.add_argument("--heap-mb", type=int, default=384)
    parser.add_argument("--jars", type=Path)
    given = parser.parse_args()
    broker = LocalKafka(given.data, given.port, given.controller_port, given.heap_mb, given.jars)
    try:
        broker.become()
    except RentrollError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
