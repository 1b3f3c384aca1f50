"""`rentroll serve-model` with a stand-in for vLLM, real sidecar, Kafka and store; kill -9 each."""

import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.door_keys import KeySnapshot
from inference.serve import serving_model
from inference.serve_supervisor import answers_health
from inference.settings import InferenceSettings
from infra.kafka.topics import ensure_topics
from infra.process_mark import ProcessMark, mark
from infra.settings import InfraSettings
from infra.store.engine import open_store
from infra.store.migrate import upgrade
from infra.store.sources import registered_keys
from schemas.control import SourceClosed
from schemas.decode import decode_event
from tests.support.serve_runs import ServeRun, wait_for
from tests.support.topic_reader import read_topics
from tests.support.vllm_standin import write_standin

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
TOPICS = ("usage.v1", "capacity.v1", "control.v1")


@pytest.fixture
def run(tmp_path: Path, kafka_bootstrap: str) -> Iterator[ServeRun]:
    store_url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    upgrade(store_url)
    ensure_topics(kafka_bootstrap)
    found = ServeRun(
        tmp_path,
        {
            "PYTHONPATH": str(write_standin(tmp_path / "standin")),
            "RENTROLL_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "RENTROLL_STORE_URL": store_url,
        },
    )
    yield found
    found.clean_up()


def ready(run: ServeRun, *options: str) -> list[ProcessMark]:
    """Start; every process of the run: wardens, sidecar, vLLM, its engine, one that is apart."""
    run.start(str(run.folder), *options)
    run.wait_ready()
    pids = [int(word) for word in (run.folder / "pids").read_text().split()]
    marks = {one.pid: one for one in (*run.marks(), *filter(None, map(mark, pids)))}
    assert len(marks) == 6
    return list(marks.values())


def all_dead(marks: list[ProcessMark]) -> bool:
    return not any(one.is_alive() for one in marks)


def closings(run: ServeRun, bootstrap: str, source: str) -> list[int]:
    """Sequence of each `source.closed` in the log; the whole log of the source is dense to it."""
    events = [decode_event(one.value) for one in read_topics(bootstrap, TOPICS, [source])]
    assert sorted({event.sequence for event in events}) == list(range(1, len(events) + 1))
    return [event.sequence for event in events if isinstance(event, SourceClosed)]


def source_of(run: ServeRun) -> str:
    status = run.status()
    assert status is not None
    return status.source


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_stop_it_publishes_all_closes_its_source_and_leaves_nobody(
    run: ServeRun, kafka_bootstrap: str, number: signal.Signals
) -> None:
    marks = ready(run)
    source = source_of(run)
    assert source in registered_keys(open_store(run.environment["RENTROLL_STORE_URL"]))
    run.signal(number)
    assert run.ended() == 0, run.text()
    assert all_dead(marks)
    assert closings(run, kafka_bootstrap, source) == [2]
    assert f"source {source} is closed; 2 events, 0 still to be published" in run.text()
    assert run.marks() == []


def test_second_ctrl_c_kills_vllm_and_still_closes_the_source(
    run: ServeRun, kafka_bootstrap: str
) -> None:
    marks = ready(run, "--drain", "100")
    source = source_of(run)
    run.signal(signal.SIGINT)
    wait_for(lambda: "ask again" in run.text(), "the first answer")
    run.signal(signal.SIGINT)
    assert run.ended(30) == 0, run.text()
    assert "vLLM is killed" in run.text()
    assert all_dead(marks)
    assert closings(run, kafka_bootstrap, source) == [2]


def test_killed_supervisor_takes_everything_with_it(run: ServeRun, kafka_bootstrap: str) -> None:
    marks = ready(run)
    source = source_of(run)
    run.signal(signal.SIGKILL)
    wait_for(lambda: all_dead(marks), "the end of every process", 40)
    assert closings(run, kafka_bootstrap, source) == [2]


def test_supervisor_and_wardens_killed_at_once_are_cleared_by_the_next_start(
    run: ServeRun,
) -> None:
    marks = ready(run)
    wardens = [run.of("vLLM")[0], run.of("sidecar")[0]]
    run.signal(signal.SIGKILL)
    for one in wardens:
        one.kill()
    source = source_of(run)
    try:
        ready(run)
        assert all_dead(marks)
        # The source was not closed, so the next sidecar goes on with it.
        assert source_of(run) == source
        run.signal(signal.SIGINT)
        assert run.ended() == 0, run.text()
    finally:
        for one in marks:
            one.kill()


def test_killed_sidecar_is_started_again_while_the_model_goes_on(
    run: ServeRun, kafka_bootstrap: str
) -> None:
    marks = ready(run)
    source = source_of(run)
    for kills in range(2):
        (before,) = run.of("sidecar")[1:]
        before.kill()

        def anew(before: ProcessMark = before) -> bool:
            status = run.status()
            return status is not None and status.pid != before.pid

        wait_for(anew, f"another sidecar after kill {kills}")
    assert "it starts again in 0.5 s" in run.text()
    assert "it starts again in 1 s" in run.text()
    assert run.of("vLLM")[1].is_alive()
    assert source_of(run) == source
    run.signal(signal.SIGINT)
    assert run.ended() == 0, run.text()
    assert all_dead(marks)
    assert closings(run, kafka_bootstrap, source) == [2]


@pytest.mark.parametrize("whom", ["server", "its warden"])
def test_killed_vllm_ends_the_run_with_its_last_lines_and_a_closed_source(
    run: ServeRun, kafka_bootstrap: str, whom: str
) -> None:
    marks = ready(run)
    source = source_of(run)
    (_, apart) = (int(word) for word in (run.folder / "pids").read_text().split())
    warden, server, *_ = run.of("vLLM")
    (server if whom == "server" else warden).kill()
    assert run.ended() == 1
    assert "vLLM ended by itself, with status 137" in run.text()
    assert "serving on" in run.text()
    assert closings(run, kafka_bootstrap, source) == [2]
    left = [one for one in marks if one.is_alive()]
    # What has left the group too is found only by a warden that lives.
    assert [one.pid for one in left] in ([], [apart] if whom == "its warden" else [])
    for one in left:
        one.kill()


def settings_in(folder: Path) -> InferenceSettings:
    return InferenceSettings.model_validate(
        {"host_folder": folder / "host", "door_keys_file": folder / "keys.json", "drain_s": 20}
    )


@pytest.mark.parametrize("killed", [False, True])
def test_program_serves_a_model_and_learns_how_it_ended(
    run: ServeRun, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    monkeypatch.syspath_prepend(run.environment["PYTHONPATH"])
    infra = InfraSettings(
        kafka_bootstrap=kafka_bootstrap, store_url=run.environment["RENTROLL_STORE_URL"]
    )
    environment = {"PYTHONPATH": run.environment["PYTHONPATH"]}
    with serving_model(
        str(run.folder), settings=settings_in(run.folder), infra=infra, environment=environment
    ) as serving:
        assert answers_health(serving.base_url)
        marks = run.marks()
        if killed:
            run.of("vLLM")[1].kill()
            wait_for(lambda: bool(serving.failure()), "word of the death")
        stopped = serving.stop()
        assert stopped == serving.stop()
    assert (stopped.source, stopped.closed) == (serving.source, True)
    assert (stopped.events, stopped.unpublished) == (2, 0)
    assert ("status 137" in stopped.failure) == killed
    assert all_dead(marks)
    assert closings(run, kafka_bootstrap, serving.source) == [2]


def test_program_that_fails_while_it_serves_still_closes_the_source(
    run: ServeRun, kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(run.environment["PYTHONPATH"])
    infra = InfraSettings(
        kafka_bootstrap=kafka_bootstrap, store_url=run.environment["RENTROLL_STORE_URL"]
    )
    environment = {"PYTHONPATH": run.environment["PYTHONPATH"]}
    sources: list[str] = []

    def fail_while_it_serves() -> None:
        with serving_model(
            str(run.folder), settings=settings_in(run.folder), infra=infra, environment=environment
        ) as serving:
            sources.append(serving.source)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_it_serves()
    assert run.marks() == []
    assert closings(run, kafka_bootstrap, sources[0]) == [2]


def test_vllm_that_does_not_start_is_told_with_its_last_lines(run: ServeRun) -> None:
    run.start(str(run.folder), "--fail")
    assert run.ended() == 1
    assert "vLLM does not start, status 3" in run.text()
    assert "no such model architecture" in run.text()
    assert run.marks() == []


def test_second_server_on_the_same_folder_is_refused(run: ServeRun) -> None:
    ready(run)
    other = ServeRun(run.folder, run.environment)
    other.printed = run.folder / "other"
    other.start(str(run.folder))
    assert other.ended() == 1
    assert "a model is served from" in other.text()
    run.signal(signal.SIGINT)
    assert run.ended() == 0


def test_store_that_is_not_migrated_is_told_before_vllm_starts(run: ServeRun) -> None:
    run.environment["RENTROLL_STORE_URL"] = f"sqlite:///{run.folder / 'empty.sqlite'}"
    run.start(str(run.folder))
    assert run.ended() == 1
    assert "rentroll migrate" in run.text()
    assert not (run.folder / "pids").exists()


def test_snapshot_of_keys_is_kept_fresh(run: ServeRun) -> None:
    import msgspec

    ready(run)
    path = run.folder / "keys.json"

    def written_ms() -> int:
        return msgspec.json.decode(path.read_bytes(), type=KeySnapshot).written_at_ms

    first = written_ms()
    wait_for(lambda: written_ms() > first, "a newer snapshot", 10)
    with sqlite3.connect(run.folder / "store.sqlite") as store:
        assert store.execute("SELECT count(*) FROM sources").fetchone() == (1,)
    run.signal(signal.SIGTERM)
    assert run.ended() == 0
