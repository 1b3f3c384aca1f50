"""A host that serves a tiny model with stock vLLM, metered: server, spools, and its sidecar."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import requests

from inference.door_keys import write_snapshot
from inference.engine_records import EngineBoot
from inference.serve_command import CPU_DEFAULTS
from inference.settings import InferenceSettings
from inference.sidecar import FOLDER_OF, Sidecar, merge_until, publish_while
from inference.spool import Damage, Position, read_spool
from inference.vllm_environment import build_site, ensure_environment, python_of
from infra.stop_request import StopRequest
from schemas.clock import SystemClock
from schemas.units import NS_PER_MS
from tests.support.doors import bearer, door_key, snapshot
from tests.support.source import ROOT

READY_S = 900
MODEL = "tiny"
OPTIONS = (
    "--served-model-name tiny --load-format dummy --enforce-eager --dtype float32"
    " --max-model-len 1024 --host 127.0.0.1 --disable-uvicorn-access-log"
    # Without it vLLM kills its engine on SIGTERM, which is then a death with time unaccounted for.
    " --shutdown-timeout 20"
    " --scheduler-cls inference.vllm_scheduler.MeteredScheduler"
    " --middleware inference.middleware.RentrollMiddleware"
)
QUIET = {
    **CPU_DEFAULTS,
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCHDYNAMO_DISABLE": "1",
}


def write_model(folder: Path) -> Path:
    """The tiny model, written with the libraries of vLLM; below it `adapter`, which is for it."""
    python = python_of(ensure_environment(InferenceSettings(), lambda _: None))
    command = [str(python), "-m", "tests.engine.tiny_llama", str(folder)]
    subprocess.run(command, env=os.environ | QUIET | {"PYTHONPATH": f"{ROOT}"}, check=True)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServedHost:
    """One life of a server on a host of its own; its sidecar runs in threads of the test.

    With `bootstrap` it publishes, too; `MODEL` in `options` is the folder of the model.
    """

    environment_of_its_own: ClassVar[dict[str, str]] = {}

    def __init__(
        self, folder: Path, model: Path, options: str = "", *, bootstrap: str = "", **settings: Any
    ) -> None:
        self.settings = InferenceSettings.model_validate(
            {
                "host_folder": folder / "host",
                "door_keys_file": folder / "keys.json",
                "interval_s": 1,
                "mark_ms": 200,
                "late_parts_ms": 500,
                "spool_fsync": "never",
                **settings,
            }
        )
        self.model = model
        self._options = f"{OPTIONS} {options}".replace("MODEL", str(self.model)).split()
        self.base_url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / "server.log"
        keys = [door_key(1), door_key(2, tenant="bolt", project="search")]
        now_ms = SystemClock().now_ns() // NS_PER_MS
        write_snapshot(self.settings.door_keys_file, snapshot(keys, at_ms=now_ms))
        self._process = self._start(folder)
        self.source = ""
        self._stop, self._merged, self._opened = (StopRequest() for _ in range(3))
        self._drained = False
        self._unpublished = 0
        self._threads = [threading.Thread(target=self._merge, daemon=True)]
        if bootstrap:
            self._threads.append(
                threading.Thread(target=self._publish, args=(bootstrap,), daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def wait_ready(self, endpoint: str = "v1/completions", **body: Any) -> None:
        """Until a request through the door is answered."""
        body = body or {"prompt": "hello", "max_tokens": 1}
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                break
            try:
                if self.post(endpoint, **body).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.5)
        raise AssertionError(self.log.read_text()[-6_000:])

    def token_id(self, marker: str) -> int:
        """Of a marker of the tiny model."""
        added = json.loads((self.model / "tokenizer.json").read_text())["added_tokens"]
        return next(int(one["id"]) for one in added if one["content"] == marker)

    def post(
        self, endpoint: str, *, key: int = 1, label: str = "the client's own", **body: Any
    ) -> requests.Response:
        """A request of one tenant, streamed if the body says so; `label` is what it calls it."""
        return requests.post(
            f"{self.base_url}/{endpoint}",
            json={"model": MODEL, **body},
            headers=self.headers(key, label),
            stream=bool(body.get("stream")),
            timeout=(5, body.pop("_timeout", 300)),
        )

    @property
    def pid(self) -> int:
        """Of the API server, or of whoever minds several."""
        return self._process.pid

    def command(self, words: list[str]) -> list[str]:
        """The words that start the server; for another kind of host."""
        return words

    def headers(self, key: int, label: str) -> dict[str, str]:
        return {"Authorization": bearer(key), "X-Request-Id": label}

    def address(self) -> str:
        return self.base_url

    def engine_pids(self) -> list[int]:
        """Of the engines that live, by what they wrote when they booted."""
        pids = []
        for spool in (self.settings.host_folder / FOLDER_OF["engine"]).glob("*"):
            found, _ = read_spool(spool, Position(0, 0), 1)
            if found and not isinstance(found[0], Damage) and found[0].kind == "engine.boot":
                pids.append(msgspec.json.decode(found[0].data, type=EngineBoot).pid)
        return pids

    def kill(self, *, engine: bool, server: bool) -> None:
        """kill -9."""
        pids = self.engine_pids()
        if server:
            self._process.kill()
        for pid in pids if engine else []:
            os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """SIGTERM; then nothing of the server is left, and the sidecar has closed its source."""
        pids = self.engine_pids()
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        deadline_s = time.monotonic() + 10
        for pid in pids:
            while _lives(pid) and time.monotonic() < deadline_s:
                time.sleep(0.1)
            if _lives(pid):
                os.kill(pid, signal.SIGKILL)
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self._drained
        assert not self._unpublished

    def _merge(self) -> None:
        sidecar = Sidecar(self.settings, SystemClock())
        self.source = sidecar.identity.source
        self._opened.set()
        self._drained = merge_until(sidecar, self._stop, drain_s=60)
        if self._drained:
            sidecar.close_source()
        sidecar.close()
        self._merged.set()

    def _publish(self, bootstrap: str) -> None:
        self._opened.wait(READY_S)
        self._unpublished = publish_while(self.settings, bootstrap, self._merged, drain_s=60)

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        python = python_of(ensure_environment(self.settings, lambda _: None))
        site = build_site(folder / "site")
        environment = os.environ | QUIET | {"PYTHONPATH": f"{site}"}
        for name in self.settings.model_fields_set:
            value = getattr(self.settings, name)
            environment[f"RENTROLL_INFERENCE_{name.upper()}"] = str(value)
        environment |= self.environment_of_its_own
        port = self.base_url.rsplit(":", 1)[1]
        command = [str(python), "-m", "vllm.entrypoints.cli.main", "serve", str(self.model)]
        command += ["--port", port, *self._options]
        command = self.command(command)
        with self.log.open("wb") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
