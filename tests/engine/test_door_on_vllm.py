"""The door in a real `vllm serve`: what clients count is what it writes, on every endpoint.

One server for the whole file, as a process, with the hook loaded as vLLM loads plugins.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference.door_keys import write_snapshot
from inference.door_records import DOOR_STOP, DoorClose, DoorOpen
from schemas.clock import SystemClock
from schemas.units import NS_PER_MS
from tests.engine.otlp_sink import VARIABLES, OtlpSink, otlp_sink
from tests.support.doors import bearer, door_key, records, snapshot, written
from tests.support.http_client import Answer, Client

ROOT = Path(__file__).parents[2]
QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}
START_S, STOP_S = 900, 120
COMPLETIONS, CHAT, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
STREAM = {"stream": True}
USAGE = {"stream_options": {"include_usage": True}}
IDS = {"return_token_ids": True}


def completion(tokens: int, **more: Any) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": "hello world the quick brown fox", "ignore_eos": True}
    return body | {"max_tokens": tokens, **more}


def chat(tokens: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello world"}]
    return {"model": "tiny", "messages": messages, "max_tokens": tokens, "ignore_eos": True, **more}


def responses(tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": "hello", "max_output_tokens": tokens, **more}


class Server:
    """A vLLM API server with the door in front, and what its doors wrote."""

    def __init__(self, folder: Path, port: int, traces: OtlpSink) -> None:
        self.folder = folder
        self.traces = traces
        self.client = Client(port, bearer(1))

    def ask(
        self, label: str, path: str, body: dict[str, Any] | bytes, **leaving: Any
    ) -> Answer | None:
        sent = self.client.post(path, body, (("x-request-id", label),), **leaving)
        return asyncio.run(asyncio.wait_for(sent, 120))

    def record(self, label: str) -> tuple[DoorOpen, DoorClose]:
        """The two records of the request with this label; waits for the second."""
        end_s = time.monotonic() + 30
        while time.monotonic() < end_s:
            found = written(self.folder)
            opened = [one for one in found.opened if one.client_request_id == label]
            closed = [one for one in found.closed if opened and one.id == opened[0].id]
            if closed:
                assert (len(opened), len(closed)) == (1, 1)
                return opened[0], closed[0]
            time.sleep(0.1)
        raise AssertionError(f"request {label} was not closed")


@pytest.fixture(scope="module")
def traces() -> Iterator[OtlpSink]:
    with otlp_sink() as found:
        yield found


@pytest.fixture(scope="module")
def server(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, traces: OtlpSink
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("door-on-vllm")
    plugin = folder / "site" / "rentroll-0.1.0.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: rentroll\nVersion: 0.1.0\n")
    entry = "[vllm.general_plugins]\nrentroll_door = inference.vllm_door:register\n"
    (plugin / "entry_points.txt").write_text(entry)
    keys = folder / "keys.json"
    now_ms = SystemClock().now_ns() // NS_PER_MS
    write_snapshot(keys, msgspec.structs.replace(snapshot([door_key()]), written_at_ms=now_ms))
    environment = {**os.environ, **QUIET}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(plugin.parent), str(ROOT), os.environ.get("PYTHONPATH", "")]
    )
    environment |= {
        **VARIABLES,
        "RENTROLL_INFERENCE_DOOR_SPANS": "1",
        "RENTROLL_INFERENCE_HOST_FOLDER": str(folder),
        "RENTROLL_INFERENCE_DOOR_KEYS_FILE": str(keys),
    }
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--model", str(tiny_model), "--served-model-name", "tiny", "--load-format", "dummy"]
    options += ["--enforce-eager", "--dtype", "float32", "--max-model-len", "1024"]
    options += ["--host", "127.0.0.1", "--port", str(port)]
    options += ["--otlp-traces-endpoint", traces.endpoint]
    options += ["--middleware", "inference.middleware.RentrollMiddleware"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_healthy(process, port, folder / "log")
        yield Server(folder, port, traces)
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert [record.kind for record in records(folder)][-1] == DOOR_STOP


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"vLLM did not start:\n{log.read_text(errors='replace')[-4_000:]}")


def events_of(answer: Answer) -> list[dict[str, Any]]:
    lines = b"".join(answer.events).split(b"\n")
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


def tokens_seen(answer: Answer) -> int:
    """Output tokens by what the client got: token ids of a stream, else the usage."""
    if not answer.events:
        usage = answer.json()["usage"]
        return int(usage.get("completion_tokens", usage.get("output_tokens")))
    events = events_of(answer)
    ids = [len(c.get("token_ids") or ()) for one in events for c in one.get("choices") or ()]
    last = [
        int(one["response"]["usage"]["output_tokens"]) for one in events[-1:] if "response" in one
    ]
    return sum(ids) + sum(last)


@pytest.mark.parametrize(
    ("label", "path", "body", "tokens", "engine_requests"),
    [
        ("completion", COMPLETIONS, completion(9), 9, 1),
        ("chat", CHAT, chat(9), 9, 1),
        ("responses", RESPONSES, responses(9), 9, 1),
        ("completion-stream", COMPLETIONS, completion(48, **STREAM, **IDS), 48, 1),
        ("chat-stream", CHAT, chat(48, **STREAM, **IDS), 48, 1),
        ("chat-stream-usage", CHAT, chat(48, **STREAM, **IDS, **USAGE), 48, 1),
        ("responses-stream", RESPONSES, responses(9, **STREAM), 9, 1),
        ("three-samples", COMPLETIONS, completion(7, n=3), 21, 3),
        ("three-samples-stream", CHAT, chat(7, n=3, **STREAM, **IDS), 21, 3),
        ("two-prompts", COMPLETIONS, completion(5, n=2) | {"prompt": ["a b", "c d"]}, 20, 4),
        ("logprobs", CHAT, chat(5, logprobs=True, top_logprobs=2), 5, 1),
        ("forged", RESPONSES, responses(3, request_id="resp_mine", priority=-9), 3, 1),
    ],
)
def test_door_writes_what_the_client_counts(
    server: Server, label: str, path: str, body: dict[str, Any], tokens: int, engine_requests: int
) -> None:
    answer = server.ask(label, path, body)
    assert answer is not None
    assert answer.status == 200
    opened, closed = server.record(label)
    assert tokens_seen(answer) == closed.delivered_tokens == tokens
    assert (closed.ending, closed.finish_reason) == ("finished", "length")
    assert closed.engine_requests == engine_requests
    assert (opened.tenant, opened.model, opened.service_tier) == ("acme", "tiny", "standard")
    assert answer.headers["x-request-id"] == f"rr1-{opened.id}"


def test_stop_string_is_counted_as_the_client_counts_it(server: Server) -> None:
    body = completion(200, stop=["e", "a", "o", "t"], **STREAM, **IDS)
    answer = server.ask("stop", COMPLETIONS, body)
    assert answer is not None
    _, closed = server.record("stop")
    assert (closed.finish_reason, closed.delivered_tokens) == ("stop", tokens_seen(answer))


def test_beam_search_says_how_many_engine_requests_it_made(server: Server) -> None:
    body = completion(5, n=2, use_beam_search=True)
    answer = server.ask("beam", COMPLETIONS, body)
    assert answer is not None
    _, closed = server.record("beam")
    assert closed.delivered_tokens == tokens_seen(answer) == 10
    assert closed.engine_requests == 9


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, completion(900, **STREAM, **IDS)),
        (CHAT, chat(900, **STREAM, **IDS)),
        (RESPONSES, responses(900, **STREAM)),
    ],
)
def test_cut_stream_is_closed_with_at_least_what_was_read(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    label = f"cut-{path[4:]}"
    answer = server.ask(label, path, body, leave_after_events=12)
    assert answer is not None
    _, closed = server.record(label)
    assert (closed.http_status, closed.ending, closed.usage) == (499, "aborted", None)
    assert tokens_seen(answer) <= closed.delivered_tokens < 900
    assert closed.delivered_tokens >= 8


def test_client_that_leaves_a_whole_answer_is_seen(server: Server) -> None:
    assert server.ask("left", COMPLETIONS, completion(900), leave_after_s=0.3) is None
    _, closed = server.record("left")
    assert (closed.http_status, closed.ending, closed.delivered_tokens) == (499, "aborted", 0)


@pytest.mark.parametrize(
    ("label", "body", "status"),
    [
        ("negative", json.dumps(completion(-3)).encode(), 400),
        ("unknown-model", json.dumps(completion(3) | {"model": "nope"}).encode(), 404),
        ("no-json", b"{", 400),
        ("nan", b'{"model":"tiny","prompt":"x","temperature":NaN}', 400),
        ("too-long", json.dumps(completion(3) | {"prompt": "hello " * 2_000}).encode(), 400),
    ],
)
def test_what_vllm_turns_down_reached_no_engine(
    server: Server, label: str, body: bytes, status: int
) -> None:
    answer = server.ask(label, COMPLETIONS, body)
    assert answer is not None
    _, closed = server.record(label)
    assert answer.status == closed.http_status == status
    assert (closed.ending, closed.engine_requests) == ("refused", 0)


def test_sixty_streams_at_once_are_all_counted_to_the_token(server: Server) -> None:
    async def one(number: int) -> tuple[str, int]:
        label, tokens = f"crowd-{number}", 1 + number
        body = chat(tokens, **STREAM, **IDS) if number % 2 else completion(tokens, **STREAM, **IDS)
        path = CHAT if number % 2 else COMPLETIONS
        answer = await server.client.post(path, body, (("x-request-id", label),))
        assert answer is not None
        assert tokens_seen(answer) == tokens
        return label, tokens

    async def crowd() -> list[tuple[str, int]]:
        return await asyncio.gather(*map(one, range(60)))

    for label, tokens in asyncio.run(crowd()):
        assert server.record(label)[1].delivered_tokens == tokens


@pytest.mark.parametrize("streamed", [False, True])
def test_what_vllm_traces_lies_below_the_span_of_the_door_and_counts_the_same(
    server: Server, streamed: bool
) -> None:
    trace, client = f"{7 + streamed:032x}", f"{9:016x}"
    body = chat(7, **STREAM, **USAGE) if streamed else chat(7)
    headers = (("traceparent", f"00-{trace}-{client}-01"),)
    answer = asyncio.run(server.client.post(CHAT, body, headers))
    assert answer is not None
    found = server.traces.of_trace(
        trace, lambda spans: {"chat tiny", "llm_request"} <= {one.name for one in spans}
    )
    (door,) = [one for one in found if one.name == "chat tiny"]
    (engine,) = [one for one in found if one.name == "llm_request"]
    assert (door.parent, engine.parent) == (client, door.span)
    ours, its = door.attributes, engine.attributes
    assert ours["rentroll.tenant"] == "acme"
    assert answer.headers["x-request-id"] == f"rr1-{ours['rentroll.request_id']}"
    assert ours["rentroll.request_id"] in its["gen_ai.request.id"]
    assert ours["gen_ai.usage.output_tokens"] == its["gen_ai.usage.completion_tokens"] == 7
    assert ours["gen_ai.usage.input_tokens"] == its["gen_ai.usage.prompt_tokens"]
    assert ours["gen_ai.response.finish_reasons"] == ["length"]
