"""How a Faust app shows the broker who it is, and what it opens beside Faust does the same."""

from typing import Any

import faust
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from infra.kafka.security import KafkaSecurity, kafka_security


def faust_credentials(
    security: KafkaSecurity | None = None,
) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """What a Faust app takes as `broker_credentials`; without an argument as settings say.

    Raises:
        SettingsError: If settings contradict one another, or a file cannot be used.
    """
    known = kafka_security() if security is None else security
    context = known.ssl_context()
    if known.with_password:
        return faust.SASLCredentials(
            username=known.user,
            password=known.password.get_secret_value(),
            mechanism=known.mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def as_aiokafka(credentials: Any) -> dict[str, Any]:
    """The same for a client of aiokafka that works beside the app."""
    return dict(credentials_to_aiokafka_auth(credentials))
