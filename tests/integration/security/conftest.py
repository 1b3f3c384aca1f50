"""One secured broker for this folder's tests, with a user per role."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from infra.kafka.rights import Role, roles
from infra.kafka.security import KafkaSecurity
from infra.kafka.topics import ensure_topics
from tests.support.servers.secured_kafka import SecuredKafka, secured_kafka

GROUP = "secured-ingest"


@dataclass(frozen=True, slots=True)
class Secured:
    """The broker; how the user of each role is let in."""

    broker: SecuredKafka
    roles: dict[str, Role]
    users: dict[str, KafkaSecurity]

    @property
    def bootstrap(self) -> str:
        return self.broker.bootstrap

    def environment(self, role: str) -> dict[str, str]:
        """The settings of a process that works as this role."""
        user = self.users[role]
        return {
            "RENTROLL_KAFKA_BOOTSTRAP": self.bootstrap,
            "RENTROLL_KAFKA_SECURITY_PROTOCOL": user.protocol,
            "RENTROLL_KAFKA_CA_FILE": str(user.ca_file),
            "RENTROLL_KAFKA_USER": user.user,
            "RENTROLL_KAFKA_PASSWORD": user.password.get_secret_value(),
            "RENTROLL_INGEST_GROUP": GROUP,
        }


@pytest.fixture(scope="session")
def secured() -> Iterator[Secured]:
    """A broker with our topics, made by the admin of the least rights."""
    known = {role.name: role for role in roles(GROUP, "secured-archive", "secured-live")}
    with secured_kafka() as broker:
        users = {
            name: broker.add_user(name, f"password-of-{name}", role.rights)
            for name, role in known.items()
        }
        ensure_topics(broker.bootstrap, security=users["admin"])
        yield Secured(broker, known, users)
