"""Keeps a served model and its sidecar running, and ends both in the order that loses nothing.

The sidecar comes first, so that no request is served before its source is registered and its keys
are there; it goes last, so that everything is merged and published. A sidecar that dies is started
again while the model goes on; a vLLM that dies ends the run: whoever started it decides whether to
start it anew, as a service manager does.
"""

import http.client
import os
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from inference.serve_child import Child, Run, RunFile
from inference.serve_command import ServeCommand
from inference.sidecar_status import STATUS_FILE, SidecarStatus, read_status
from infra.ports import LOOPBACK, is_free
from infra.process_mark import mark
from schemas.errors import PortBusyError, ServerError, ServerStartError

SERVE_FOLDER = "serve"
_POLL_S = 0.1
_HEALTH_S = 1.0
_RECORD_S = 2.0
_SIDECAR_START_S = 60.0
_BACK_OFF_S = (0.5, 30.0)
"""How long a dead sidecar stays away: at first, and at most. It doubles in between."""
_STABLE_S = 60.0
"""A sidecar that lived this long was well: its next death is a first one."""
_AFTER_DRAIN_S = 20.0
"""What vLLM has beyond its own `--shutdown-timeout`, to tear itself down."""
_ORPHAN_S = 10.0
"""How long vLLM goes on when its supervisor was killed."""
_LAST_ATTEMPTS = 3
HURRY, GIVE_UP = 2, 3
"""How often one asks to stop, until vLLM is killed, and until the sidecar is."""
OK = 200
Say = Callable[[str], None]


class StoppedEarlyError(ServerError):
    """Somebody asked to stop before the model was served."""


@dataclass(frozen=True, slots=True)
class ServePlan:
    """What is to run, and what each of the two processes gets as its environment."""

    serve: ServeCommand
    vllm_environment: Mapping[str, str]
    sidecar_environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StoppedServing:
    """How it ended.

    Attributes:
        source: Of the host.
        closed: Whether `source.closed` was written: nothing of it follows.
        events: Of the source, `source.opened` and `source.closed` included.
        unpublished: Events that Kafka has not acknowledged; the next sidecar publishes them.
        failure: Empty, or why vLLM ended by itself, with its last log lines.
    """

    source: str
    closed: bool
    events: int
    unpublished: int
    failure: str


class Supervisor:
    """One run: `start`, `watch` until it is over, `stop`, all from one thread at a time."""

    def __init__(self, plan: ServePlan, say: Say) -> None:
        self._plan = plan
        self._say = say
        self._settings = settings = plan.serve.settings
        self._folder = settings.host_folder / SERVE_FOLDER
        drain_s = plan.serve.drain_s + _AFTER_DRAIN_S
        self.vllm = Child(
            "vLLM", self._folder / "vllm.log", grace_s=drain_s, orphan_grace_s=_ORPHAN_S
        )
        # It waits for the host's processes, then for Kafka, each for up to `drain_s`.
        self._finish_s = 2 * settings.drain_s + _AFTER_DRAIN_S
        self.sidecar = Child(
            "sidecar",
            self._folder / "sidecar.log",
            grace_s=self._finish_s,
            orphan_grace_s=self._finish_s,
        )
        self._run_file = RunFile(self._folder)
        self._asked = 0
        self._source = ""
        self._failure = ""
        self._began_s = 0.0
        self._due_s: float | None = None
        self._back_off_s = _BACK_OFF_S[0]
        self._recorded_s = 0.0

    @property
    def source(self) -> str:
        """Of the host, once the sidecar has registered it."""
        return self._source

    @property
    def failure(self) -> str:
        """Why vLLM ended by itself; empty while it lives."""
        return self._failure

    def ask_to_stop(self) -> None:
        """Safe in a signal handler. Asked again, vLLM is killed; once more, the sidecar too."""
        self._asked += 1

    def start(self) -> None:
        """Start the sidecar, then vLLM; return once the model is served.

        Call `stop` afterwards, also if this raises.

        Raises:
            ServerError: If a model is served from this folder already, or a process does not start
                (`ServerStartError`, with its last log lines).
            PortBusyError: If somebody else has the port.
            StoppedEarlyError: If asked to stop.
        """
        self._run_file.take()
        port = self._plan.serve.port
        if urlsplit(self._plan.serve.base_url).hostname == LOOPBACK and not is_free(port):
            raise PortBusyError(f"port {port} is in use: stop what listens there, or name another")
        self._say("starting the sidecar")
        self._start_sidecar(anew=True)
        self._source = self._await_sidecar().source
        self._say(f"starting vLLM; it writes to {self.vllm.log}")
        self.vllm.start(self._plan.serve.command, self._plan.vllm_environment, anew=True)
        self._record(force=True)
        self._await_health()
        self._record(force=True)

    def watch(self) -> None:
        """Return once asked to stop, or vLLM has ended by itself; the sidecar is minded."""
        while not self._asked:
            ended = self.vllm.ended()
            if ended is not None:
                self._failure = self.vllm.why(f"ended by itself, with status {ended}")
                return
            self._mind_sidecar()
            self._record()
            time.sleep(_POLL_S)

    def stop(self) -> StoppedServing:
        """End vLLM, then the sidecar; both have ended when this returns."""
        if self._run_file.held:
            self._end_vllm()
            if self._source:
                self._end_sidecar()
            self.sidecar.kill()
            self.vllm.close()
            self.sidecar.close()
            self._run_file.release()
        status = read_status(self._settings.host_folder)
        return StoppedServing(
            source=self._source,
            closed=status is not None and status.state == "closed",
            events=status.events if status is not None else 0,
            unpublished=status.unpublished_events if status is not None else 0,
            failure=self._failure,
        )

    def _start_sidecar(self, *, anew: bool) -> None:
        self._began_s = time.monotonic()
        self._due_s = None
        (self._settings.host_folder / STATUS_FILE).unlink(missing_ok=True)
        command = (sys.executable, "-P", "-m", "inference.run_sidecar")
        self.sidecar.start(command, self._plan.sidecar_environment, anew=anew)
        self._record(force=True)

    def _await_sidecar(self) -> SidecarStatus:
        """Wait for its first word, which it says once its source is registered."""
        deadline_s = time.monotonic() + _SIDECAR_START_S
        while True:
            status = self._sidecar_status()
            if status is not None:
                return status
            if self.sidecar.ended() is not None:
                raise ServerStartError(self.sidecar.why("does not start"))
            if time.monotonic() > deadline_s:
                raise ServerStartError(self.sidecar.why(f"says nothing for {_SIDECAR_START_S} s"))
            self._refuse_if_asked()
            time.sleep(_POLL_S)

    def _sidecar_status(self) -> SidecarStatus | None:
        status = read_status(self._settings.host_folder)
        return status if status is not None and status.pid == self.sidecar.pid else None

    def _await_health(self) -> None:
        timeout_s = self._settings.serve_start_timeout_s
        deadline_s = time.monotonic() + timeout_s
        while not answers_health(self._plan.serve.base_url):
            ended = self.vllm.ended()
            if ended is not None:
                raise ServerStartError(self.vllm.why(f"does not start, status {ended}"))
            if time.monotonic() > deadline_s:
                raise ServerStartError(self.vllm.why(f"does not serve within {timeout_s} s"))
            self._refuse_if_asked()
            self._mind_sidecar()
            self._record()
            time.sleep(_POLL_S)

    def _refuse_if_asked(self) -> None:
        if self._asked:
            raise StoppedEarlyError("stopped before the model was served")

    def _mind_sidecar(self) -> None:
        """Start a dead sidecar again, later each time; it goes on from where it was."""
        now_s = time.monotonic()
        if self._due_s is not None:
            if now_s >= self._due_s:
                self._start_again()
            return
        ended = self.sidecar.ended()
        if ended is None:
            return
        if now_s - self._began_s > _STABLE_S:
            self._back_off_s = _BACK_OFF_S[0]
        again = f"ended with status {ended}; it starts again in {self._back_off_s:g} s"
        self._say(self.sidecar.why(again))
        self._due_s = now_s + self._back_off_s
        self._back_off_s = min(2 * self._back_off_s, _BACK_OFF_S[1])

    def _start_again(self) -> None:
        try:
            self._start_sidecar(anew=False)
        except ServerError as error:
            # Such as no memory for one more process: it shows as ended, and is tried again later.
            self._say(str(error))

    def _end_vllm(self) -> None:
        if self.vllm.ended() is not None:
            return
        self._say("vLLM finishes what runs; ask again to cut it short")
        self.vllm.ask()
        deadline_s = time.monotonic() + self._plan.serve.drain_s + _AFTER_DRAIN_S
        while self.vllm.ended() is None:
            if self._asked >= HURRY or time.monotonic() > deadline_s:
                self._say("vLLM is killed; what ran is billed up to its last mark")
                self.vllm.kill()
                return
            self._mind_sidecar()
            time.sleep(_POLL_S)

    def _end_sidecar(self) -> None:
        """Let the sidecar finish; one that dies over it is started again, a few times."""
        self._say("the sidecar merges and publishes what is left, and closes its source")
        for _ in range(_LAST_ATTEMPTS):
            if self._finish_once():
                return

    def _finish_once(self) -> bool:
        """Whether the sidecar came to its end: with its last word said, or given up on."""
        try:
            if self.sidecar.ended() is not None:
                self._start_sidecar(anew=False)
            # Its signal handlers are there once it has said something.
            self._await_first_word()
        except ServerError as error:
            self._say(str(error))
            return False
        self.sidecar.ask()
        deadline_s = time.monotonic() + self._finish_s
        while self.sidecar.ended() is None:
            if self._asked >= GIVE_UP or time.monotonic() > deadline_s:
                self._say("the sidecar is killed; the next start goes on from where it was")
                return True
            time.sleep(_POLL_S)
        status = read_status(self._settings.host_folder)
        return status is not None and status.state in {"closed", "left open"}

    def _await_first_word(self) -> None:
        asked, self._asked = self._asked, 0
        try:
            self._await_sidecar()
        finally:
            self._asked += asked

    def _record(self, *, force: bool = False) -> None:
        """Write down every process of the run, for the next start to find should this be killed."""
        now_s = time.monotonic()
        if not force and now_s - self._recorded_s < _RECORD_S:
            return
        self._recorded_s = now_s
        children = (self.sidecar, self.vllm)
        self._run_file.write(
            Run(
                supervisor=mark(os.getpid()),
                base_url=self._plan.serve.base_url,
                processes={child.name: child.processes() for child in children},
            )
        )


def answers_health(base_url: str) -> bool:
    """Whether the server answers on `/health`; whoever its certificate names, and by no proxy."""
    parts = urlsplit(base_url)
    host, port = str(parts.hostname), parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=_HEALTH_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_HEALTH_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
