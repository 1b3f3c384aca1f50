"""A real Kafka broker that wants TLS, a user with a password, and an ACL for everything."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from kafka.errors import KafkaTimeoutError
from pydantic import SecretStr

from infra.kafka.local import LocalKafka
from infra.kafka.probe import serves
from infra.kafka.rights import Right
from infra.kafka.security import KafkaSecurity, kafka_python_options
from infra.local_server import LocalServer
from infra.ports import LOOPBACK, choose_port
from tests.support.certificates import Authority
from tests.support.servers.away_and_back import AwayAndBack

ADMIN, ADMIN_PASSWORD = "superuser", "the-superusers-password"
LOGIN_ATTEMPTS, LOGIN_TIMEOUT_MS = 15, 4_000
_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required"


@dataclass(frozen=True, slots=True)
class SecuredKafka(LocalKafka):
    """`port` is for users with a password, `certificate_port` for clients with a certificate."""

    certificate_port: int = 0

    @property
    def authority(self) -> Authority:
        return Authority(self.data / "certificates")

    def properties(self) -> str:
        users, clients = f"{LOOPBACK}:{self.port}", f"{LOOPBACK}:{self.certificate_port}"
        control = f"{LOOPBACK}:{self.controller_port}"
        broker = self.authority.issue("broker", LOOPBACK)
        listeners = f"SASL_SSL://{users},SSL://{clients}"
        changed = {
            "listeners": f"{listeners},CONTROLLER://{control}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": ("SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT"),
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                f'{_LOGIN} username="{ADMIN}" password="{ADMIN_PASSWORD}";'
            ),
            "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": f"{_LOGIN};",
            "listener.name.ssl.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(broker.both.resolve()),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.certificate.resolve()),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # Only the controller itself is anonymous here: its listener is the only plain one.
            "super.users": f"User:{ADMIN};User:ANONYMOUS",
        }
        lines = dict(line.split("=", 1) for line in LocalKafka.properties(self).splitlines())
        return "".join(f"{name}={value}\n" for name, value in (lines | changed).items())

    def first_users(self) -> tuple[str, ...]:
        return ("--add-scram", f"SCRAM-SHA-512=[name={ADMIN},password={ADMIN_PASSWORD}]")

    def server(self, log: Path) -> LocalServer:
        plain = LocalKafka.server(self, log)
        command = [*plain.command, "--certificate-port", str(self.certificate_port)]
        command[command.index("infra.kafka.local")] = "tests.support.servers.secured_kafka"
        command.remove("-P")
        return replace(
            plain,
            command=tuple(command),
            probe=lambda: serves(plain.address, security=self.user(ADMIN, ADMIN_PASSWORD)),
        )

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def user(self, name: str, password: str, **changes: object) -> KafkaSecurity:
        """How a client shows that it is this user."""
        known = KafkaSecurity(
            protocol="SASL_SSL",
            ca_file=self.authority.certificate,
            user=name,
            password=SecretStr(password),
        )
        return replace(known, **changes)  # type: ignore[arg-type]

    def admin(self) -> KafkaAdminClient:
        security = self.user(ADMIN, ADMIN_PASSWORD)
        return KafkaAdminClient(
            bootstrap_servers=self.bootstrap,
            bootstrap_timeout_ms=LOGIN_TIMEOUT_MS,
            **kafka_python_options(security),
        )

    def add_user(self, name: str, password: str, rights: tuple[Right, ...] = ()) -> KafkaSecurity:
        """A new user with just these rights."""
        admin = self.admin()
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            credential = UserScramCredentialUpsertion(name, mechanism, password)
            assert admin.alter_user_scram_credentials([credential]) == {name: None}
        admin.close()
        self.grant(f"User:{name}", rights)
        return self.user(name, password)

    def grant(self, principal: str, rights: tuple[Right, ...]) -> None:
        acls = [
            ACL(
                principal=principal,
                host="*",
                operation=ACLOperation[_constant(operation)],
                permission_type=ACLPermissionType.ALLOW,
                resource_pattern=ResourcePattern(
                    ResourceType[right.kind.upper()],
                    right.name,
                ),
            )
            for right in rights
            for operation in right.operations
        ]
        if acls:
            admin = self.admin()
            made = admin.create_acls(acls)
            admin.close()
            assert not made["failed"], made


def _constant(operation: str) -> str:
    return "DESCRIBE_CONFIGS" if operation == "DescribeConfigs" else operation.upper()


@contextmanager
def secured_kafka() -> Iterator[SecuredKafka]:
    """A broker as a local process; nobody but `admin` is known to it yet."""
    with tempfile.TemporaryDirectory(prefix="rentroll-secured-kafka-") as name:
        folder = Path(name)
        ports: set[int] = set()
        for number in range(3):
            ports.add(choose_port(f"{folder}/{number}", ports))
        port, controller, certificates = sorted(ports)
        broker = SecuredKafka(folder, port, controller, certificate_port=certificates)
        broker.authority.create()
        with AwayAndBack(broker.server(log=folder / "printed.log")):
            wait_until_users_are_known(broker)
            yield broker


def wait_until_users_are_known(broker: SecuredKafka) -> None:
    """A broker listens before it has read who may come in."""
    for attempt in range(LOGIN_ATTEMPTS):
        try:
            broker.admin().close()
        except KafkaTimeoutError:
            if attempt == LOGIN_ATTEMPTS - 1:
                raise
        else:
            return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    for name in ("--port", "--controller-port", "--heap-mb", "--certificate-port"):
        parser.add_argument(name, type=int, required=True)
    given = parser.parse_args()
    ports = (given.port, given.controller_port, given.heap_mb)
    SecuredKafka(given.data, *ports, certificate_port=given.certificate_port).become()


if __name__ == "__main__":
    main()
