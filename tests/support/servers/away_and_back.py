"""A local server that can go away, and comes back with its data at the same address."""

import os
import signal
from typing import Self

from infra.local_server import LocalServer, launch, stop, wait_until_ready

START_TIMEOUT_S = 90


class AwayAndBack:
    """A server as a process of the test; use it in a `with`, from the main thread."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._process = launch(self._server)
        wait_until_ready(self._server, self._process, START_TIMEOUT_S)

    def stop(self) -> None:
        stop(self._process)

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait(10)

    def freeze(self) -> None:
        """Its connections stay, and nothing answers on them."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)
