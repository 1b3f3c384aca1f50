"""A real server that speaks S3 for tests: by URL, or moto's as a local process."""

import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from infra.addresses import answers_http
from infra.ports import choose_port
from schemas.errors import ServerStartError

URL_VARIABLE = "RENTROLL_TEST_S3_URL"
PYTHON = Path(__file__).resolve().parents[3] / ".venv/s3/bin/python"
SERVE = """
import sys
from moto.server import create_backend_app
from werkzeug.serving import run_simple

app = create_backend_app("s3")
run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=False)
"""
"""One request at a time: between two of moto's threads a conditional write is not atomic."""
START_TIMEOUT_S = 180
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where the server answers, and how to sign for it."""

    endpoint: str
    access_key: str = "test"
    secret_key: str = "test"

    def environment(self) -> dict[str, str]:
        """What a process has in its environment to use this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def new_bucket(self) -> str:
        """The URL of a bucket that is new and empty."""
        name = f"archive-{os.getpid()}-{next(_numbers)}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        return f"s3://{name}/rentroll"


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """An S3 server with conditional writes; one given by URL takes `test` as both keys."""
    given = os.environ.get(URL_VARIABLE)
    if given:
        yield S3Server(given)
        return
    if not PYTHON.exists():
        raise ServerStartError(f"no S3 server: `make setup` installs one, or set {URL_VARIABLE}")
    with tempfile.TemporaryDirectory(prefix="rentroll-s3-") as folder:
        port = choose_port(folder)
        command = [str(PYTHON), "-c", SERVE, str(port)]
        log = Path(folder) / "printed.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _wait(f"http://127.0.0.1:{port}", process, log)
            yield S3Server(f"http://127.0.0.1:{port}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers_http(url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerStartError(f"the S3 server did not start:\n{log.read_text()[-2_000:]}")
        time.sleep(0.1)
