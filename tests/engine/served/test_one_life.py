"""One life of a stock `vllm serve`, metered: one event per request whatever happens.

One boot for the whole file: every kind of request, clients that leave, forgers, Kafka away until
the disk is full and back, SIGTERM while it is busy. Each test looks at a chapter of that life.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from infra.kafka.topics import ensure_topics
from schemas.envelope import Envelope
from schemas.usage import RequestFinished
from tests.engine.served.host import MODEL, ServedHost
from tests.engine.served.leaving import LEAVING
from tests.engine.served.more_kinds import ADAPTER, CROWD, MORE_KINDS, OPTIONS
from tests.engine.served.story import (
    assert_counts_are_the_clients,
    assert_intervals_close,
    intervals_of,
    requests_of,
    say,
    told,
    told_by_kind,
)
from tests.engine.served.traffic import CHAT, COMPLETIONS, KINDS, RESPONSES, Seen, Traffic
from tests.engine.served.trouble import (
    SMALL,
    end_while_busy,
    fill,
    lost_by,
    published,
    wait_served,
)
from tests.support.doors import bearer
from tests.support.servers.kafka import KafkaAwayAndBack

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(1_800),
    # kafka-python leaves the sockets of a producer that is dropped to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
ROUNDS, ROUNDS_OF_LEAVING = 3, 4
"""Requests of each kind."""
BUSY = 6
ASKED = {
    COMPLETIONS: {"prompt": "hello", "max_tokens": 5, "ignore_eos": True},
    CHAT: {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "ignore_eos": True},
    RESPONSES: {"input": "hello", "max_output_tokens": 5},
}


@dataclass
class Life:
    """What clients saw, chapter by chapter, and all that Kafka holds of it at the end.

    `forgeries` are those of bolt that name acme's `victim` wherever they can.
    """

    every_kind: list[Seen] = field(default_factory=list)
    leavers: list[Seen] = field(default_factory=list)
    victim: str = ""
    forgeries: list[str] = field(default_factory=list)
    away: list[Seen] = field(default_factory=list)
    back: list[Seen] = field(default_factory=list)
    busy: list[Seen] = field(default_factory=list)
    events: list[Envelope] = field(default_factory=list)
    requests: dict[str, RequestFinished] = field(default_factory=dict)

    def named(self, seen: Seen) -> RequestFinished:
        return self.requests[seen.request.removeprefix("rr1-")]


@pytest.fixture(scope="module")
def host_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one-life")


@pytest.fixture(scope="module")
def lived(host_folder: Path, model: Path) -> tuple[ServedHost, Life]:
    options = f"{OPTIONS} --shutdown-timeout 60"
    life = Life()
    with KafkaAwayAndBack(host_folder / "kafka") as broker:
        ensure_topics(broker.bootstrap)
        host = ServedHost(host_folder, model, options, bootstrap=broker.bootstrap, **SMALL)
        try:
            host.wait_ready()
            kinds = KINDS + MORE_KINDS
            life.every_kind = Traffic(host, seed=1, kinds=kinds).run(ROUNDS * len(kinds))
            life.every_kind += Traffic(host, seed=2, kinds=CROWD).run(8)
            leaving = Traffic(host, seed=3, kinds=LEAVING, told_apart="leaver")
            life.leavers = leaving.run(ROUNDS_OF_LEAVING * len(LEAVING))
            forge(host, life)
            broker.stop()
            life.away = fill(host)
            broker.start()
            wait_served(host)
            life.back = Traffic(host, seed=4).run(len(KINDS))
        finally:
            life.busy = end_while_busy(host, BUSY)
        life.events = published(broker, host)
    life.requests = requests_of(life.events)
    say(told([*life.every_kind, *life.leavers, *life.away, *life.back, *life.busy], life.events))
    return host, life


def forge(host: ServedHost, life: Life) -> None:
    """As bolt, ask with acme's name and request wherever a name or a request can be."""
    first = host.post(COMPLETIONS, key=1, label="victim", **ASKED[COMPLETIONS])
    life.victim = first.headers["X-Request-Id"]
    names = ("X-Tenant", "X-Tenant-Id", "X-Rentroll-Tenant", "OpenAI-Organization", "X-User-Id")
    for endpoint, asked in ASKED.items():
        body = {"model": MODEL, **asked, "user": "acme", "request_id": life.victim}
        answer = requests.post(
            f"{host.base_url}/{endpoint}",
            json=body | {"cache_salt": "acme", "priority": -9, "metadata": {"tenant": "acme"}},
            headers={
                **dict.fromkeys(names, "acme"),
                **host.headers(2, life.victim),
                "X-data-parallel-rank": "0",
            },
            timeout=120,
        )
        assert answer.ok, answer.text
        life.forgeries.append(answer.headers["X-Request-Id"])
    wrong = bearer(1)[:-4] + "AAAA"
    refused = requests.post(
        f"{host.base_url}/{COMPLETIONS}",
        json={"model": MODEL, **ASKED[COMPLETIONS]},
        headers={"Authorization": wrong, "X-Request-Id": "of nobody"},
        timeout=120,
    )
    assert refused.status_code == 401


def test_every_kind_of_request_becomes_one_event_with_the_clients_counts(
    lived: tuple[ServedHost, Life],
) -> None:
    host, life = lived
    seen = life.every_kind
    say(told_by_kind(seen, life.requests))
    assert [one.broken for one in seen if one.broken] == []
    assert assert_counts_are_the_clients(host, seen, life.requests) > len(seen) // 2
    # Each of these has answers with usage; a kind that the server turns down compares nothing.
    answered = {one.kind for one in seen if one.status == 200 and one.output_tokens is not None}
    assert {"beams", "logprobs", "structured", "think", "tool named", "adapter"} <= answered
    called = {one.kind for one in seen if one.tool_calls}
    assert called == {"tool named stream", "tool auto", "tool auto stream"}
    ours = {one.kind: life.named(one).data for one in seen if one.request}
    outcomes = Counter(life.named(one).data.outcome for one in seen if one.request)
    assert outcomes["client_gone"] >= 2 * ROUNDS
    assert outcomes["refused"] >= 3 * ROUNDS
    assert not outcomes["error"]
    adapted = {kind for kind, data in ours.items() if data.adapter == ADAPTER}
    assert adapted == {"adapter", "adapter stream"}
    parts = [part for event in life.requests.values() for part in event.data.parts]
    assert sum(part.recomputed_tokens for part in parts) > 0
    assert any(event.data.input_cache_read_tokens for event in life.requests.values())


def test_client_that_leaves_has_one_event_wherever_in_its_answer_it_left(
    lived: tuple[ServedHost, Life],
) -> None:
    _, life = lived
    by_label = Counter(event.data.client_request_id for event in life.requests.values())
    left: dict[str, list[RequestFinished]] = {kind: [] for kind, _ in LEAVING}
    for one in life.leavers:
        # Who hangs up while the door still reads has not asked for anything.
        assert by_label[one.label] <= 1
        assert by_label[one.label] == 1 or one.kind == "cut at once"
        left[one.kind] += [
            event for event in life.requests.values() if event.data.client_request_id == one.label
        ]
    for kind, events in left.items():
        say(f"{kind}: {[(one.data.outcome, one.data.generated_tokens) for one in events]}")
        assert "client_gone" in {one.data.outcome for one in events}
        assert {one.data.outcome for one in events} <= {"client_gone", "length"}
    for one in life.leavers:
        if one.kind == "cut near the end":
            assert life.named(one).data.generated_tokens >= (one.token_ids or 0) > 0


def test_forged_ids_names_and_headers_change_nothing_but_a_label(
    lived: tuple[ServedHost, Life],
) -> None:
    _, life = lived
    victim = life.requests[life.victim.removeprefix("rr1-")]
    assert (victim.subject, victim.data.client_request_id) == ("acme", "victim")
    assert victim.data.output_text_tokens == 5
    forged = [life.requests[one.removeprefix("rr1-")] for one in life.forgeries]
    assert len({victim.id, *(one.id for one in forged)}) == 1 + len(ASKED)
    for one in forged:
        assert (one.subject, one.data.project) == ("bolt", "search")
        assert one.data.api_key != victim.data.api_key
        assert one.data.client_request_id == life.victim
        assert one.data.service_tier == "standard"
        assert len(one.data.parts) == 1
        assert one.data.parts[0].gpu_ns > 0
    labels = {event.data.client_request_id for event in life.requests.values()}
    assert "of nobody" not in labels


def test_kafka_away_until_the_disk_is_full_refuses_new_work_and_loses_nothing(
    lived: tuple[ServedHost, Life],
) -> None:
    host, life = lived
    refused = [one for one in life.away if one.status == 503]
    say(f"Kafka away: {len(life.away)} asked, {len(refused)} turned away")
    assert len(refused) >= 10
    assert not any(one.request for one in refused)
    assert not lost_by(life.events)
    answered = [one for one in life.away if one.status == 200]
    assert len(answered) > 40
    assert len({life.named(one).id for one in answered}) == len(answered)
    assert [one.broken for one in (*life.away, *life.back) if one.broken] == []
    assert assert_counts_are_the_clients(host, life.back, life.requests) > len(life.back) // 2


def test_busy_server_that_is_told_to_stop_finishes_every_answer(
    lived: tuple[ServedHost, Life],
) -> None:
    _, life = lived
    answers = [life.named(one).data for one in life.busy if one.status == 200]
    assert len(answers) >= BUSY - 1
    assert {data.outcome for data in answers} == {"length"}
    # A random model thinks, too, now and then.
    tokens = {data.output_text_tokens + data.output_reasoning_tokens for data in answers}
    assert tokens == {150}


def test_all_of_a_life_is_accounted_for_to_the_nanosecond(lived: tuple[ServedHost, Life]) -> None:
    _, life = lived
    assert assert_intervals_close(life.events) == 0
    assert not any(one.data.unaccounted_ns for one in intervals_of(life.events))
    assert not any(one.data.synthesized for one in intervals_of(life.events))
