"""Asks a broker, in Kafka's own protocol, whether it serves, without a client library."""

import socket
import struct

METADATA, METADATA_VERSION, CORRELATION = 3, 2, 17
NO_TOPICS = 0
ANSWER_LIMIT_BYTES = 1_000_000


def serves(bootstrap: str, timeout_s: float = 1.0) -> bool:
    """Whether one of the brokers in `host:port[,host:port]` serves requests."""
    return any(
        cluster_of(address.strip(), timeout_s) is not None for address in bootstrap.split(",")
    )


def cluster_of(address: str, timeout_s: float = 1.0) -> str | None:
    """Cluster id of the broker at `host:port`; None while it does not serve.

    A broker that listens but does not serve yet names no broker in its metadata, or is silent.
    """
    host, _, port = address.rpartition(":")
    body = struct.pack(">hhihi", METADATA, METADATA_VERSION, CORRELATION, -1, NO_TOPICS)
    try:
        with socket.create_connection((host, int(port)), timeout_s) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            (size,) = struct.unpack(">i", _read(connection, 4))
            if not 0 < size <= ANSWER_LIMIT_BYTES:
                return None
            return _cluster_id(_read(connection, size))
    except (OSError, ValueError, struct.error, UnicodeDecodeError):
        return None


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
