"""A gate before ClickHouse: it can refuse, be slow, deliver too late, or keep the answer back."""

import contextlib
import random
import selectors
import socket
import threading
import time
from typing import Literal

Mode = Literal["open", "away", "slow", "answer lost", "late", "cut"]
_CHUNK = 65_536


class Gate:
    """Passes connections on to a server; what happens to new requests is its mode."""

    def __init__(self, port: int) -> None:
        """Listen on a port of its own.

        Args:
            port: Of the server, on 127.0.0.1.
        """
        self._port = port
        self.mode: Mode = "open"
        self.delay_s = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="gate", daemon=True).start()

    def open(self) -> None:
        self.mode, self.delay_s = "open", 0.0

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if self.mode == "away":
                return
            with socket.create_connection(("127.0.0.1", self._port), timeout=10) as server:
                self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        waited = False
        with selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    source: socket.socket = key.fileobj  # type: ignore[assignment]
                    chunk = source.recv(_CHUNK)
                    if not chunk and source is client and waited:
                        # Gone, while its request still goes to the server: that is the point.
                        ready.unregister(client)
                        continue
                    if not chunk:
                        return
                    is_request = source is client
                    if self.mode == ("late" if is_request else "slow") and not waited:
                        waited = True
                        time.sleep(self.delay_s)
                    if not self._let_pass(chunk, key.data, is_request=is_request):
                        return

    def _let_pass(self, chunk: bytes, to: socket.socket, *, is_request: bool) -> bool:
        """Whether the connection goes on."""
        if self.mode == "away" or (not is_request and self.mode == "answer lost"):
            return False
        if is_request and self.mode == "cut":
            to.sendall(chunk[: random.randint(0, len(chunk))])
            return False
        to.sendall(chunk)
        return True
