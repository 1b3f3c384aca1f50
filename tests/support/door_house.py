"""A door on real sockets: what is behind it, a client in front of it, and what it wrote."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from inference.door_keys import KeySnapshot
from inference.doorkeeper import Doorkeeper
from inference.middleware import RentrollMiddleware
from tests.support.asgi_server import AsgiServer, asgi_server
from tests.support.doors import Written, bearer, door_key, living_door, snapshot, written
from tests.support.http_client import Client
from tests.support.vllm_shaped import VllmShaped

COMPLETIONS, CHAT, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"


class House:
    """A door, what is behind it, and a client in front of it."""

    def __init__(self, folder: Path, app: VllmShaped, server: AsgiServer, door: Doorkeeper) -> None:
        self.folder, self.app, self.server, self.door = folder, app, server, door
        self.client = Client(server.port, bearer(1))

    async def settled(self) -> Written:
        await self.server.settled()
        return written(self.folder)


@asynccontextmanager
async def house(
    folder: Path, *, hooked: bool = False, keys: KeySnapshot | None = None, **changes: Any
) -> AsyncIterator[House]:
    app = VllmShaped(hooked=hooked)
    door = living_door(folder, keys or snapshot([door_key()]), **changes)
    async with asgi_server(RentrollMiddleware(app, door)) as server:
        yield House(folder, app, server, door)


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))
