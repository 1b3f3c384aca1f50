"""`rentroll serve-model` with stock vLLM: asked to stop, and each process killed; nobody stays."""

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from infra.kafka.topics import ensure_topics
from infra.process_mark import ProcessMark
from schemas.control import SourceClosed
from schemas.decode import decode_event
from schemas.fleet import EngineInterval
from schemas.usage import RequestFinished
from tests.engine.served.host import QUIET
from tests.support.keyed_store import key_terms, store_with_keys
from tests.support.serve_runs import ServeRun, wait_for
from tests.support.servers.kafka import kafka
from tests.support.topic_reader import read_topics

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1_800)]
TOPICS = ("usage.v1", "capacity.v1", "control.v1")
OPTIONS = (
    "--served-model-name tiny --load-format dummy --enforce-eager --dtype float32"
    " --max-model-len 1024 --disable-uvicorn-access-log"
)


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    with kafka() as found:
        ensure_topics(found)
        yield found


class Served(ServeRun):
    """A run with a key, that can be asked for tokens."""

    key: str
    seen: list[str]

    def serve(self, bootstrap: str, model: Path) -> list[ProcessMark]:
        store_url = f"sqlite:///{self.folder / 'store.sqlite'}"
        (self.key,), self.seen = store_with_keys(store_url, [key_terms()]), []
        self.environment = QUIET | {
            "RENTROLL_KAFKA_BOOTSTRAP": bootstrap,
            "RENTROLL_STORE_URL": store_url,
        }
        self.start(str(model), *OPTIONS.split())
        self.wait_ready(900)
        assert self.complete(4).status_code == 200
        return self.marks()

    def complete(self, tokens: int) -> requests.Response:
        """A request; its minted id is kept, if it was told."""
        answer = requests.post(
            f"{self.run().base_url}/v1/completions",
            json={"model": "tiny", "prompt": "hello", "max_tokens": tokens, "ignore_eos": True},
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=300,
        )
        self.seen.append(answer.headers.get("X-Request-Id", "").removeprefix("rr1-"))
        return answer

    def source(self) -> str:
        status = self.status()
        assert status is not None
        return status.source


@pytest.fixture
def served(tmp_path: Path, bootstrap: str, model: Path) -> Iterator[Served]:
    found = Served(tmp_path)
    yield found
    found.clean_up()


def is_merged(served: Served, *, requests: int) -> bool:
    """Whether the sidecar knows of so many requests, and of none that is open."""
    status = served.status()
    return status is not None and status.events > requests and not status.open_requests


def all_dead(marks: list[ProcessMark]) -> bool:
    return not any(one.is_alive() for one in marks)


def assert_story_is_whole(served: Served, bootstrap: str, source: str) -> list[RequestFinished]:
    """Sequences dense to the closing; one event per request; intervals that close."""
    events = [decode_event(one.value) for one in read_topics(bootstrap, TOPICS, [source])]
    by_sequence = {event.sequence: event for event in events}
    assert sorted(by_sequence) == list(range(1, len(by_sequence) + 1))
    assert isinstance(by_sequence[len(by_sequence)], SourceClosed)
    finished = [one for one in by_sequence.values() if isinstance(one, RequestFinished)]
    assert max(Counter(one.id for one in finished).values()) == 1
    assert set(filter(None, served.seen)) <= {one.id for one in finished}
    gpu_ns = {
        (part.engine, part.ordinal): part.gpu_ns for one in finished for part in one.data.parts
    }
    intervals = [one.data for one in by_sequence.values() if isinstance(one, EngineInterval)]
    for one in intervals:
        ordinals = range(one.ordinal_start + 1, one.ordinal_end + 1)
        parts_ns = sum(gpu_ns[one.engine, ordinal] for ordinal in ordinals)
        assert one.attributed_ns == parts_ns + one.in_flight_end_ns - one.in_flight_start_ns
    assert intervals
    return finished


@pytest.mark.deep
def test_ctrl_c_lets_a_running_request_finish_and_bills_all_of_it(
    served: Served, bootstrap: str, model: Path
) -> None:
    marks = served.serve(bootstrap, model)
    # Warden and sidecar; warden, API server, and what it starts: the engine, at least.
    assert len(marks) >= 5
    source = served.source()
    answers: list[requests.Response] = []
    # Else the request before would be taken for the one that runs.
    wait_for(lambda: is_merged(served, requests=1), "the first request's event")
    running = threading.Thread(target=lambda: answers.append(served.complete(600)))
    running.start()
    wait_for(lambda: bool((status := served.status()) and status.open_requests), "an open request")
    served.signal(signal.SIGINT)
    late: list[requests.Response] = []
    wait_for(lambda: late.append(served.complete(4)) or late[-1].status_code == 503, "a refusal")
    assert served.ended(200) == 0, served.text()
    running.join()
    answered = [one for one in late if one.ok]
    assert late[-1].json()["error"]["code"] == "server-closing"
    assert answers[0].json()["usage"]["completion_tokens"] == 600
    assert all_dead(marks)
    finished = assert_story_is_whole(served, bootstrap, source)
    assert len(finished) == 2 + len(late)
    assert sum(one.data.output_text_tokens for one in finished) == 604 + 4 * len(answered)
    assert [one.data.outcome for one in finished].count("refused") == 1
    assert served.text().count("is closed") == 1


@pytest.mark.deep
@pytest.mark.parametrize("whom", ["supervisor", "sidecar", "API server", "engine"])
def test_kill_9_of_any_process_leaves_nobody_and_a_whole_story(
    served: Served, bootstrap: str, model: Path, whom: str
) -> None:
    marks = served.serve(bootstrap, model)
    source = served.source()
    if whom == "supervisor":
        served.signal(signal.SIGKILL)
    elif whom == "sidecar":
        served.of("sidecar")[1].kill()
        assert served.complete(8).status_code == 200
        wait_for(lambda: served.status() is not None, "another sidecar")
        served.signal(signal.SIGTERM)
        assert served.ended(200) == 0, served.text()
    else:
        _, server, *engine = served.of("vLLM")
        (server if whom == "API server" else engine[-1]).kill()
        assert served.ended(200) == 1
        assert "vLLM ended by itself" in served.text()
    wait_for(lambda: all_dead(marks), "the end of every process", 60)
    assert_story_is_whole(served, bootstrap, source)
