"""Clients that leave before the first token, just before the last one, or do not wait at all."""

import json
import random
import socket
import time
from urllib.parse import urlsplit

from tests.engine.served.host import MODEL
from tests.engine.served.traffic import (
    CHAT,
    COMPLETIONS,
    Host,
    Seen,
    Send,
    chat,
    completion,
    stream,
    whole,
)


def leave_at_once(host: Host, dice: random.Random, key: int, seen: Seen) -> None:
    """Ask for a stream and hang up before its first token, within 30 ms."""
    body = {"model": MODEL, "stream": True, **completion(dice, max_tokens=300)}
    data = json.dumps(body).encode()
    where = urlsplit(host.address())
    lines = [f"POST /{COMPLETIONS} HTTP/1.1", f"Host: {where.netloc}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {text}" for name, text in host.headers(key, seen.label).items()]
    head = "\r\n".join([*lines, "", ""]).encode()
    seen.cut = True
    try:
        with socket.create_connection((where.hostname, where.port), timeout=5) as connection:
            connection.sendall(head + data)
            time.sleep(dice.random() * 0.03)
    except OSError as error:
        seen.broken = repr(error)


def cut_near_the_end(host: Host, dice: random.Random, key: int, seen: Seen) -> None:
    """Hang up one or two tokens before the last one."""
    tokens = dice.randint(10, 50)
    body = completion(dice, max_tokens=tokens)
    stream(host, key, seen, COMPLETIONS, body, cut=tokens - dice.randint(1, 2))


LEAVING: list[tuple[str, Send]] = [
    ("cut at once", leave_at_once),
    ("cut near the end", cut_near_the_end),
    (
        "gone soon",
        lambda h, d, k, s: whole(
            h, k, s, CHAT, chat(d, max_tokens=900, _timeout=0.05 + d.random() / 5)
        ),
    ),
]
