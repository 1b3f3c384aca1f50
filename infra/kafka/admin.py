"""A connection that administers a broker, and errors that say what to mend."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kafka.admin import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    CoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)

from infra.kafka.probe import trouble
from infra.kafka.rights import Granted, Right, Role, missing
from infra.kafka.security import KafkaSecurity, kafka_python_options
from schemas.errors import ServerError

REQUEST_TIMEOUT_MS = 30_000
ANSWER_TIMEOUT_S = 15.0
BOOTSTRAP_TIMEOUT_MS = 5_000
"""A broker that answered a moment ago lets a client in within this time, or says why not."""

GROUP_ATTEMPTS, GROUP_RETRY_S = 20, 0.5


@contextmanager
def administration(bootstrap: str, security: KafkaSecurity) -> Iterator[KafkaAdminClient]:
    """An admin client while the block runs; whatever Kafka says becomes words on what to mend.

    Raises:
        ServerError: If the broker cannot be reached, does not let the user in, or refuses.
        SettingsError: If a file of `security` cannot be used.
    """
    # Asked first: the client tries a certificate that nobody vouches for again and again.
    found = trouble(bootstrap, security, ANSWER_TIMEOUT_S)
    if found is not None:
        raise ServerError(f"Kafka at {found.text}")
    with in_our_words(bootstrap, security):
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap.split(","),
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
            **kafka_python_options(security),
        )
        try:
            yield admin
        finally:
            admin.close()


@contextmanager
def in_our_words(bootstrap: str, security: KafkaSecurity) -> Iterator[None]:
    """Make a client of kafka-python, or use one, in a block whose errors say what to mend.

    Raises:
        ServerError: In place of any error of Kafka's.
    """
    listening = _WhyNotLetIn()
    logger = logging.getLogger("kafka.net.manager")
    logger.addHandler(listening)
    try:
        yield
    except KafkaError as error:
        refused = listening.why if isinstance(error, KafkaTimeoutError) else None
        why = in_words(refused or error, security)
        raise ServerError(f"Kafka at {bootstrap}: {why}") from error
    finally:
        logger.removeHandler(listening)


class _WhyNotLetIn(logging.Handler):
    """Keeps the error with which a broker refuses a user.

    The client only logs it, and then says that it could not begin, for whatever reason. Some
    refusals are nothing but a broker that hangs up.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.why: KafkaError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        given = record.args if isinstance(record.args, tuple) else ()
        for one in given:
            if isinstance(one, SaslAuthenticationFailedError | UnsupportedSaslMechanismError):
                self.why = one
            elif isinstance(one, KafkaConnectionError) and "disconnected" in str(one):
                self.why = self.why or SaslAuthenticationFailedError("it hung up")


def in_words(error: BaseException, security: KafkaSecurity) -> str:
    """What went wrong, and which setting or right mends it."""
    if isinstance(error, SaslAuthenticationFailedError):
        return (
            f"it does not let {security.who()} in by {security.mechanism}: mend"
            " RENTROLL_KAFKA_USER, RENTROLL_KAFKA_PASSWORD or RENTROLL_KAFKA_SASL_MECHANISM, or"
            " tell the broker this user"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"it does not know RENTROLL_KAFKA_SASL_MECHANISM={security.mechanism} ({error})"
    if isinstance(error, AuthorizationError):
        return (
            f"{security.who()} lacks a right ({error}): `rentroll kafka acls` shows what each role"
            " needs"
        )
    return str(error) or type(error).__name__


def granted(bootstrap: str, security: KafkaSecurity, wanted: Sequence[Right]) -> Granted:
    """What the user may do with each of the wanted resources, as the broker itself says.

    Raises:
        ServerError: As `administration`, or if a topic is not there yet.
    """
    topics = sorted({right.name for right in wanted if right.kind == "topic"})
    groups = sorted({right.name for right in wanted if right.kind == "group"})
    found: dict[tuple[str, str], frozenset[str]] = {}
    with administration(bootstrap, security) as admin:
        for topic in admin.describe_topics(topics):
            if topic["error_code"] == UnknownTopicOrPartitionError.errno:
                raise ServerError(
                    f"Kafka at {bootstrap}: topic {topic['name']} is not there yet: `rentroll up`,"
                    " as a user who may create it, does"
                )
            named = topic.get("authorized_operations") or ()
            found["topic", topic["name"]] = frozenset(map(str.lower, named))
        for group in groups:
            found["group", group] = _of_group(admin, group)
    return found


def require_role(bootstrap: str, security: KafkaSecurity, role: Role) -> None:
    """See that the user has every right of a role, before it finds out in the middle of its work.

    Raises:
        ServerError: If one is missing; names each.
    """
    lacking = missing(role.rights, granted(bootstrap, security, role.rights))
    if lacking:
        raise ServerError(
            f"Kafka at {bootstrap}: {security.who()} lacks {', '.join(lacking)};"
            f" `rentroll kafka acls --role {role.name}` prints how to grant it"
        )


def _of_group(admin: KafkaAdminClient, group: str) -> frozenset[str]:
    for attempt in range(GROUP_ATTEMPTS):
        # A broker's very first group: it makes the topic in which it keeps them, and loads it.
        if attempt:
            time.sleep(GROUP_RETRY_S)
        try:
            (told,) = admin.describe_groups([group]).values()
        except AuthorizationError:
            return frozenset()
        except CoordinatorNotAvailableError:
            continue
        error = str(told.get("error") or "")
        if "Coordinator" in error:
            continue
        if "Authorization" in error:
            return frozenset()
        if error:
            # The group is not there yet. That this is said takes Describe; more cannot be asked.
            return frozenset({"describe", "read"})
        return frozenset(map(str.lower, told["authorized_operations"] or ()))
    raise CoordinatorNotAvailableError(f"no broker coordinates the group {group}")
