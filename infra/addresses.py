"""Reads addresses that people give: which host and port, and how to show one without its secret."""

import socket
import urllib.request
from http.client import HTTPException
from urllib.parse import urlsplit, urlunsplit

OK = 200
DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432}


def without_secret(url: str) -> str:
    """The URL with its password shown as `***`; what is no URL comes back as it is."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{name}:***@{host}"))


def host_and_port(url: str) -> tuple[str, int]:
    """Where a URL's server listens.

    Raises:
        ValueError: If the URL names no host, or no port and its scheme has none of its own.
    """
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme.partition("+")[0])
    if not parts.hostname or port is None:
        raise ValueError(f"no host and port in {without_secret(url)}")
    return parts.hostname, port


def answers_http(url: str, timeout_s: float = 1.0) -> bool:
    """Whether a GET of this `http[s]://` URL is answered with 200. A user in it is left out."""
    parts = urlsplit(url)
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    try:
        with urllib.request.urlopen(plain, timeout=timeout_s) as answer:  # noqa: S310
            return bool(answer.status == OK)
    except (OSError, ValueError, HTTPException):
        return False


def accepts_connections(url: str, timeout_s: float = 2.0) -> bool:
    """Whether something listens where the URL says."""
    try:
        with socket.create_connection(host_and_port(url), timeout_s):
            return True
    except (OSError, ValueError):
        return False
