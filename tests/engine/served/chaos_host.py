"""A host that serves the tiny model by `rentroll serve-model`, is killed, and comes back."""

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Literal

import requests
from urllib3.exceptions import NewConnectionError

from inference.serve_supervisor import SERVE_FOLDER
from infra.process_mark import ProcessMark
from infra.store.engine import open_store
from infra.store.sources import registered_keys
from tests.engine.served.host import MODEL, QUIET
from tests.support.keyed_store import key_terms, store_with_keys
from tests.support.serve_runs import ServeRun, wait_for
from tests.support.served_story import Story
from tests.support.spool_tap import SpoolTap
from tests.support.topic_reader import read_topics

TOPICS = ("usage.v1", "capacity.v1", "control.v1")
OPTIONS = (
    "--served-model-name tiny --load-format dummy --enforce-eager --dtype float32"
    " --max-model-len 1024 --disable-uvicorn-access-log"
)
Executor = Literal["uni", "mp"]
"""Whether the engine computes in its own process, vLLM's choice for one GPU, or in a worker's."""
TENANTS = {1: "acme", 2: "bolt", 3: "carp", 4: "drip"}
LIMITED, FORGED = 4, 5
READY_S = 900
_AGAIN_S = 0.2


class ChaosHost(ServeRun):
    """One host, however often its server is killed and started again.

    `serving` is set while clients may come; who finds nobody listening waits and comes again.
    """

    def open(self, bootstrap: str, model: Path, executor: Executor) -> None:
        self._options = [*OPTIONS.split(), "--distributed-executor-backend", executor]
        self.folder.mkdir(exist_ok=True)
        self._bootstrap, self._model = bootstrap, model
        self._store_url = f"sqlite:///{self.folder / 'store.sqlite'}"
        terms = [key_terms(tenant) for tenant in TENANTS.values()]
        terms[LIMITED - 1] = key_terms(TENANTS[LIMITED], requests_per_minute=6)
        self._keys = dict(enumerate(store_with_keys(self._store_url, terms), 1))
        self._keys[FORGED] = self._keys[1][:-4] + "AAAA"
        self.environment = QUIET | {
            "RENTROLL_KAFKA_BOOTSTRAP": bootstrap,
            "RENTROLL_STORE_URL": self._store_url,
            "RENTROLL_INFERENCE_INTERVAL_S": "2",
        }
        self.tap = SpoolTap(self.host, self.folder / "tap")
        self.serving = threading.Event()
        self.ever: set[ProcessMark] = set()
        self.boots = 0
        self.serve()

    def serve(self) -> None:
        """Start the server, once more; what the last one wrote is kept."""
        self.keep_logs()
        self.start(str(self._model), *self._options)
        self.wait_ready(READY_S)
        self.base_url = self.run().base_url
        self.boots += 1
        self.note_processes()
        self.serving.set()

    def keep_logs(self) -> None:
        """Copy what this run wrote, for who has to find out."""
        kept = self.folder / "logs" / f"run {self.boots}"
        kept.mkdir(parents=True, exist_ok=True)
        for log in (self.printed, *self.host.glob(f"{SERVE_FOLDER}/*.log")):
            if log.exists():
                shutil.copy(log, kept)

    def note_processes(self) -> list[ProcessMark]:
        """The processes that live now; none of all that were seen may be left at the end."""
        marks = self.marks()
        self.ever |= set(marks)
        return marks

    def post(self, endpoint: str, *, key: int, label: str = "", **body: Any) -> requests.Response:
        """A request of one tenant; waits while nobody listens."""
        timeout_s = body.pop("_timeout", 120)
        while True:
            assert self.serving.wait(READY_S), "the server did not come back"
            try:
                return requests.post(
                    f"{self.base_url}/{endpoint}",
                    json={"model": MODEL, **body},
                    headers=self.headers(key, label),
                    stream=bool(body.get("stream")),
                    timeout=(5, timeout_s),
                )
            except requests.ConnectionError as error:
                if not _nobody_listens(error):
                    raise
                time.sleep(_AGAIN_S)

    def address(self) -> str:
        """Where it serves, once it does."""
        assert self.serving.wait(READY_S), "the server did not come back"
        return self.base_url

    def headers(self, key: int, label: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._keys[key]}", "X-Request-Id": label}

    def end(self) -> int:
        """SIGTERM; its exit status, once everything is published. Nothing of it stays."""
        self.serving.clear()
        assert self.process is not None
        self.process.terminate()
        status = self.ended(200)
        wait_for(lambda: not self.alive(), "the end of every process", 30)
        self.tap.close()
        self.keep_logs()
        return status

    def alive(self) -> list[ProcessMark]:
        return [one for one in self.ever if one.is_alive()]

    def story(self) -> Story:
        """What all sources that this host ever registered have published; a copy stays."""
        store = open_store(self._store_url)
        keys = registered_keys(store)
        store.dispose()
        lying = read_topics(self._bootstrap, TOPICS, list(keys))
        values = [one.value for one in lying]
        (self.folder / "published.jsonl").write_bytes(b"\n".join(values))
        (self.folder / "registered.json").write_text(json.dumps(keys))
        return Story(values, keys)


def _nobody_listens(error: requests.ConnectionError) -> bool:
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError)
