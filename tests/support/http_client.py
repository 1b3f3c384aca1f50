"""A client that says exactly what a test wants, byte for byte, and leaves when a test wants."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

Header = tuple[str, str]


@dataclass
class Answer:
    """What came back; `events` are a stream's, as they arrived."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    events: list[bytes] = field(default_factory=list)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """Speaks to a port of 127.0.0.1; one connection per request."""

    port: int
    key: str = ""

    async def post(
        self,
        path: str,
        body: dict[str, Any] | bytes,
        headers: tuple[Header, ...] = (),
        *,
        leave_after_events: int | None = None,
        leave_after_s: float | None = None,
    ) -> Answer | None:
        """Send and read the answer; None where the client left before its head came."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [*headers, ("content-length", str(len(raw))), ("content-type", "application/json")]
        reader, writer = await self.send("POST", path, lines, raw)
        try:
            async with asyncio.timeout(leave_after_s):
                return await _read(reader, leave_after_events)
        except TimeoutError:
            return None
        finally:
            writer.close()

    async def get(self, path: str, headers: tuple[Header, ...] = (), method: str = "GET") -> Answer:
        reader, writer = await self.send(method, path, list(headers), b"")
        try:
            return await _read(reader, None)
        finally:
            writer.close()

    async def leave_while_sending(self, path: str, announced_bytes: int) -> None:
        """Announce a body, send half of it, and go."""
        head = [("content-length", str(announced_bytes))]
        _, writer = await self.send("POST", path, head, b"x" * (announced_bytes // 2))
        await asyncio.sleep(0.05)
        writer.close()

    async def send(
        self, method: str, path: str, headers: list[Header], body: bytes
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        every = [*headers, ("host", "door")]
        if self.key and not any(name.lower() == "authorization" for name, _ in headers):
            every.append(("authorization", self.key))
        head = "".join(f"{name}: {value}\r\n" for name, value in every)
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
        await writer.drain()
        return reader, writer


async def _read(reader: asyncio.StreamReader, leave_after_events: int | None) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    status, *lines = head[:-4].decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    answer = Answer(int(status.split(" ")[1]), headers)
    if headers.get("transfer-encoding") != "chunked":
        answer.body = await reader.readexactly(int(headers["content-length"]))
        return answer
    while size := int(await reader.readuntil(b"\r\n"), 16):
        answer.events.append(await reader.readexactly(size))
        await reader.readexactly(2)
        if leave_after_events is not None and len(answer.events) >= leave_after_events:
            return answer
    answer.body = b"".join(answer.events)
    return answer
