"""One group, one ledger and their workers, on servers that can go away; what can happen to them."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.kafka.topics import ensure_topics
from schemas.topics import TOPICS, Topic
from tests.chaos.trials.expected import Expected
from tests.chaos.trials.gate import Gate
from tests.chaos.trials.worker import FATE, Nursery
from tests.support.servers.clickhouse import ClickHouseAwayAndBack
from tests.support.servers.hasty_kafka import HastyKafkaAwayAndBack

PARTITIONS = {"usage.v1": 2, "capacity.v1": 1}
FEW: tuple[Topic, ...] = tuple(
    replace(topic, partitions=PARTITIONS.get(topic.name, 1)) for topic in TOPICS
)
PATIENCE_S = 90


class Servers:
    """A broker, a ClickHouse and the gate before it."""

    def __init__(self, folder: Path) -> None:
        self.kafka = HastyKafkaAwayAndBack(folder / "kafka")
        self.clickhouse = ClickHouseAwayAndBack(folder / "clickhouse")
        self.gate = Gate(urlsplit(self.clickhouse.url).port or 0)
        self.nursery = Nursery()

    def close(self) -> None:
        self.gate.close()
        self.nursery.close()
        self.clickhouse.stop()
        self.kafka.stop()


@dataclass(slots=True)
class Worker:
    """One process, and how it has to end."""

    pid: int
    folder: Path
    doomed: bool = False
    """Whether something was done to it, after which it ends."""
    frozen: bool = False
    code: int | None = None


@dataclass(slots=True)
class Lane:
    """Workers of one group on one ledger."""

    servers: Servers
    number: int
    folder: Path
    ledger: Client
    expected: Expected
    workers: list[Worker] = field(default_factory=list)
    partitions: int = PARTITIONS["usage.v1"]
    _started: int = 0

    @property
    def group(self) -> str:
        return f"trials-{self.number}"

    def start_worker(self) -> Worker:
        folder = self.folder / f"worker-{self._started}"
        self._started += 1
        pid = self.servers.nursery.start(
            kafka=self.servers.kafka.bootstrap,
            clickhouse=self.servers.gate.url,
            database=self.group.replace("-", "_"),
            group=self.group,
            folder=str(folder),
        )
        self.workers.append(Worker(pid, folder))
        return self.workers[-1]

    def working(self) -> list[Worker]:
        """Those that run, and to which nothing has happened."""
        self.reap()
        return [one for one in self.workers if one.code is None and not one.doomed]

    def reap(self) -> None:
        for worker in self.workers:
            if worker.code is None:
                worker.code = self.servers.nursery.ended(worker.pid)

    def kill_all(self) -> None:
        """The frozen too, and whom fate has not met yet."""
        self.reap()
        for worker in self.workers:
            if worker.code is None:
                self.strike(worker, signal.SIGKILL)

    def strike(self, worker: Worker, number: signal.Signals) -> None:
        """Send it a signal; of those that end it, it is known."""
        worker.doomed = worker.doomed or number in (signal.SIGKILL, signal.SIGTERM)
        with suppress(ProcessLookupError):
            os.kill(worker.pid, number)

    def plan(self, worker: Worker, step: str, count: int, what: str) -> None:
        """Let something happen to it when it passes a step for the n-th time from now on."""
        worker.doomed = worker.doomed or what in ("kill", "term")
        worker.frozen = worker.frozen or what == "freeze"
        worker.folder.mkdir(parents=True, exist_ok=True)
        fresh = worker.folder / "fate.new"
        fresh.write_text(f"{step} {count} {what}")
        fresh.replace(worker.folder / FATE)

    def end_what_is_planned(self) -> None:
        """Wake the frozen; kill whom fate did not meet."""
        self.reap()
        for worker in self.workers:
            with suppress(FileNotFoundError):
                (worker.folder / FATE).unlink()
                if worker.doomed and worker.code is None:
                    self.strike(worker, signal.SIGKILL)
            if worker.frozen and worker.code is None:
                self.strike(worker, signal.SIGCONT)
                worker.frozen = False

    def wrong_ends(self) -> list[str]:
        """Workers that ended although nothing was done to them, or otherwise than they should."""
        self.reap()
        wrong = []
        for worker in self.workers:
            fine = (0, -signal.SIGKILL) if worker.doomed else (None,)
            if worker.code not in (*fine, None):
                last = (worker.folder / "worker.log").read_text(errors="replace")[-1_500:]
                wrong.append(f"{worker.folder.name} ended with {worker.code}: {last}")
        self.workers = [one for one in self.workers if one.code is None]
        return wrong

    def admin(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.servers.kafka.bootstrap)

    def add_partition(self) -> None:
        self.partitions += 1
        admin = self.admin()
        admin.create_partitions({"usage.v1": self.partitions})
        admin.close()

    def delete_unread(self, partition: int, before: int) -> None:
        """As retention does it."""
        self.expected.gone["usage.v1", partition] = before
        admin = self.admin()
        admin.delete_records({TopicPartition("usage.v1", partition): before})
        admin.close()

    def forget_commits(self) -> None:
        """As the broker does with groups that were gone for a week; everybody is dead by now."""
        admin = self.admin()
        try:
            wait_until(lambda: self._forgotten(admin), "the group to be empty")
        finally:
            admin.close()

    def _forgotten(self, admin: KafkaAdminClient) -> bool:
        try:
            answer: dict[str, str] = admin.delete_groups([self.group])
        except KafkaError:
            return False
        return answer[self.group] in ("OK", "GroupIdNotFoundError")

    def end(self) -> list[str]:
        """SIGTERM to all: each has to end with 0."""
        self.servers.gate.open()
        self.end_what_is_planned()
        for worker in self.workers:
            self.strike(worker, signal.SIGTERM)
        wait_until(self._all_ended, "the workers to end")
        return self.wrong_ends()

    def _all_ended(self) -> bool:
        self.reap()
        return all(one.code is not None for one in self.workers)


@contextmanager
def lane(servers: Servers, number: int, folder: Path) -> Iterator[Lane]:
    """A lane with fresh topics and an empty ledger."""
    admin = KafkaAdminClient(bootstrap_servers=servers.kafka.bootstrap)
    there = [topic.name for topic in FEW if topic.name in set(admin.list_topics())]
    if there:
        admin.delete_topics(there)
        wait_until(lambda: not set(there) & set(admin.list_topics()), "topics to be deleted")
    admin.close()
    ensure_topics(servers.kafka.bootstrap, FEW)
    database = f"trials_{number}"
    migrate(servers.clickhouse.url, database)
    expected = Expected(servers.kafka.bootstrap)
    with connect(servers.clickhouse.url, database) as ledger:
        made = Lane(servers, number, folder / f"lane-{number}", ledger, expected)
        try:
            yield made
        finally:
            servers.gate.open()
            for worker in made.workers:
                made.strike(worker, signal.SIGCONT)
                made.strike(worker, signal.SIGKILL)
            wait_until(made._all_ended, "the workers to die")
            expected.close()
    with connect(servers.clickhouse.url, "default") as client:
        client.command(f"DROP DATABASE {database} SYNC")


def wait_until(holds: object, what: str, within_s: float = PATIENCE_S) -> None:
    """Wait.

    Raises:
        TimeoutError: If it does not come.
    """
    deadline = time.monotonic() + within_s
    while not holds():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within_s} s for {what}")
        time.sleep(0.05)
