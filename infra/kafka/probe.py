"""Asks a broker, in Kafka's own protocol, whether it serves, without a client library."""

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from infra.kafka.security import PLAINTEXT, KafkaSecurity

METADATA, METADATA_VERSION = 3, 2
API_VERSIONS, API_VERSIONS_VERSION = 18, 0
CORRELATION = 17
NO_TOPICS = 0
ANSWER_LIMIT_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why no client gets as far as showing its password; `lasting` is not mended by waiting."""

    text: str
    lasting: bool = False


def serves(bootstrap: str, timeout_s: float = 1.0, security: KafkaSecurity = PLAINTEXT) -> bool:
    """Whether one of the brokers in `host:port[,host:port]` serves requests.

    Raises:
        SettingsError: If a file that `security` names cannot be used.
    """
    answers = _lets_in if security.with_password else _names_its_cluster
    return any(answers(address, timeout_s, security) for address in addresses(bootstrap))


def addresses(bootstrap: str) -> list[str]:
    """Each `host:port` of `host:port[,host:port]`."""
    return [address.strip() for address in bootstrap.split(",")]


def trouble(bootstrap: str, security: KafkaSecurity, timeout_s: float = 2.0) -> Trouble | None:
    """The last broker's trouble; None where any of them has none.

    Raises:
        SettingsError: If a file that `security` names cannot be used.
    """
    found: Trouble | None = None
    for address in addresses(bootstrap):
        found = _trouble(address, security, timeout_s)
        if found is None:
            return None
    return found


def cluster_of(
    address: str, timeout_s: float = 1.0, security: KafkaSecurity = PLAINTEXT
) -> str | None:
    """Cluster id of the broker at `host:port`; None while it does not serve.

    A broker that listens but does not serve yet names no broker in its metadata, or is silent.
    """
    try:
        with _connected(address, timeout_s, security) as connection:
            body = struct.pack(">i", NO_TOPICS)
            return _cluster_id(_asked(connection, METADATA, METADATA_VERSION, body))
    except (OSError, ValueError, struct.error, UnicodeDecodeError):
        return None


def _names_its_cluster(address: str, timeout_s: float, security: KafkaSecurity) -> bool:
    return cluster_of(address, timeout_s, security) is not None


def _lets_in(address: str, timeout_s: float, security: KafkaSecurity) -> bool:
    """Whether it answers the one question that it answers before it knows who asks."""
    try:
        with _connected(address, timeout_s, security) as connection:
            return bool(_asked(connection, API_VERSIONS, API_VERSIONS_VERSION, b""))
    except (OSError, ValueError, struct.error):
        return False


def _trouble(address: str, security: KafkaSecurity, timeout_s: float) -> Trouble | None:
    try:
        with _connected(address, timeout_s, security) as connection:
            _asked(connection, API_VERSIONS, API_VERSIONS_VERSION, b"")
            if not security.with_password:
                _asked(connection, METADATA, METADATA_VERSION, struct.pack(">i", NO_TOPICS))
    except ssl.SSLError as error:
        return _tls_trouble(address, security, error)
    except ConnectionRefusedError:
        return Trouble(f"{address}: nothing listens there")
    except (ConnectionError, TimeoutError, ValueError, struct.error) as error:
        return Trouble(
            f"{address}: does not go on after RENTROLL_KAFKA_SECURITY_PROTOCOL={security.protocol}"
            f" ({_named(error)}): is it a port for TLS, or for users with a password, or not"
            " Kafka at all?"
        )
    except OSError as error:
        return Trouble(f"{address}: {_named(error)}")
    return None


def _tls_trouble(address: str, security: KafkaSecurity, error: ssl.SSLError) -> Trouble:
    reason = str(error.reason or error)
    if isinstance(error, ssl.SSLCertVerificationError):
        by = security.ca_file or "this system"
        told = (
            f"{by} does not vouch for its certificate ({error.verify_message}); mend"
            " RENTROLL_KAFKA_CA_FILE, or the name in the certificate"
        )
    elif isinstance(error, ssl.SSLEOFError):
        return Trouble(f"{address}: hangs up while TLS begins ({reason})")
    elif "CERTIFICATE" in reason.upper():
        told = (
            f"does not take this client's certificate ({reason}); give it one that it knows with"
            " RENTROLL_KAFKA_CERTIFICATE_FILE and RENTROLL_KAFKA_KEY_FILE"
        )
    else:
        told = (
            f"does not speak TLS as RENTROLL_KAFKA_SECURITY_PROTOCOL={security.protocol} wants"
            f" ({reason}): is it a plain port?"
        )
    return Trouble(f"{address}: {told}", lasting=True)


def _named(error: Exception) -> str:
    return str(error) or type(error).__name__


@contextmanager
def _connected(address: str, timeout_s: float, security: KafkaSecurity) -> Iterator[socket.socket]:
    """A connection, encrypted where `security` wants it."""
    host, _, port = address.rpartition(":")
    context = security.ssl_context()
    with socket.create_connection((host, int(port)), timeout_s) as plain:
        if context is None:
            yield plain
            return
        with context.wrap_socket(plain, server_hostname=host.strip("[]")) as encrypted:
            yield encrypted


def _asked(connection: socket.socket, key: int, version: int, body: bytes) -> bytes:
    """The answer to one request, with its correlation in front."""
    request = struct.pack(">hhih", key, version, CORRELATION, -1) + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _read(connection, 4))
    if not 0 < size <= ANSWER_LIMIT_BYTES:
        raise ValueError(f"an answer of {size} bytes")
    return _read(connection, size)


def _read(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    got = bytearray()
    while len(got) < size:
        piece = connection.recv(size - len(got))
        if not piece:
            raise ConnectionError("the broker hung up")
        got += piece
    return bytes(got)


def _cluster_id(answer: bytes) -> str | None:
    """The cluster id in a Metadata answer of version 2 that names at least one broker."""
    correlation, brokers = struct.unpack_from(">ii", answer)
    if correlation != CORRELATION or brokers < 1:
        return None
    at = 8
    for _ in range(brokers):
        at += 4  # node id
        at = _skip_string(answer, at)  # host
        at += 4  # port
        at = _skip_string(answer, at)  # rack
    (length,) = struct.unpack_from(">h", answer, at)
    return answer[at + 2 : at + 2 + length].decode() if length > 0 else None


def _skip_string(answer: bytes, at: int) -> int:
    """The place behind a string that may be null."""
    (length,) = struct.unpack_from(">h", answer, at)
    return at + 2 + max(0, int(length))
