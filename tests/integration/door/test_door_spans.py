"""What the door says on real OpenTelemetry spans, kept in memory, through its real middleware."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from inference.middleware import RentrollMiddleware
from tests.support.asgi_server import asgi_server
from tests.support.door_house import CHAT, COMPLETIONS, RESPONSES, house, run
from tests.support.doors import bearer, door_key, living_door, snapshot
from tests.support.http_client import Client
from tests.support.source import ROOT
from tests.support.vllm_shaped import VllmShaped

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = ("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01")
USAGE = {"stream_options": {"include_usage": True}}
_exporter = InMemorySpanExporter()
_provider = TracerProvider()


@pytest.fixture(scope="module", autouse=True)
def provider() -> None:
    """The process has one provider, which can be set once: as an operator's configuration does."""
    _provider.add_span_processor(SimpleSpanProcessor(_exporter))
    trace.set_tracer_provider(_provider)


@pytest.fixture(autouse=True)
def spans() -> Iterator[InMemorySpanExporter]:
    _exporter.clear()
    yield _exporter
    _exporter.clear()


def said(span: ReadableSpan) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in (span.attributes or {}).items()
        if name.startswith(("gen_ai.", "rentroll.", "error."))
    }


def test_span_of_the_door_says_whose_request_it_was_and_what_it_used(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async def story() -> None:
        async with house(tmp_path, hooked=True, door_spans=True) as at:
            body = {"model": "tiny", "stream": True, "script": {"tokens": 9}, **USAGE}
            await at.client.post(CHAT, body)
            opened, _ = (await at.settled()).only()
            (span,) = spans.get_finished_spans()
            assert (span.name, span.kind) == ("chat tiny", SpanKind.SERVER)
            assert said(span) == {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "vllm",
                "gen_ai.request.model": "tiny",
                "gen_ai.response.model": "tiny",
                "gen_ai.response.finish_reasons": ["stop"],
                "gen_ai.usage.input_tokens": 7,
                "gen_ai.usage.cache_read.input_tokens": 4,
                "gen_ai.usage.output_tokens": 9,
                "gen_ai.usage.reasoning.output_tokens": 0,
                "rentroll.request_id": opened.id,
                "rentroll.tenant": "acme",
                "rentroll.project": "chatbot",
                "rentroll.service_tier": "standard",
                "rentroll.ending": "finished",
                "rentroll.delivered_tokens": 9,
            }

    run(story)


def test_span_lies_below_the_clients_and_above_the_engines(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async def story() -> None:
        async with house(tmp_path, door_spans=True) as at:
            await at.client.post(COMPLETIONS, {"model": "tiny"}, (TRACEPARENT,))
            await at.settled()
            (span,) = spans.get_finished_spans()
            assert span.parent is not None
            assert f"{span.parent.span_id:016x}" == PARENT_ID
            assert f"{span.context.trace_id:032x}" == TRACE_ID
            (scope, _) = at.app.seen[0]
            carried = [value for name, value in scope["headers"] if name == b"traceparent"]
            assert carried == [f"00-{TRACE_ID}-{span.context.span_id:016x}-01".encode()]

    run(story)


def test_span_of_an_instrumentation_before_the_door_gets_the_attributes(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async def story() -> None:
        door = living_door(tmp_path, snapshot([door_key()]), door_spans=True)
        app = OpenTelemetryMiddleware(RentrollMiddleware(VllmShaped(), door))
        async with asgi_server(app) as server:
            body = {"model": "tiny", "script": {"tokens": 3}}
            await Client(server.port, bearer(1)).post(COMPLETIONS, body)
            await server.settled()
        servers = [one for one in spans.get_finished_spans() if one.kind is SpanKind.SERVER]
        (span,) = servers
        assert said(span)["gen_ai.operation.name"] == "text_completion"
        assert said(span)["gen_ai.usage.output_tokens"] == 3
        assert said(span)["rentroll.tenant"] == "acme"

    run(story)


def test_cut_stream_has_no_usage_but_what_was_delivered(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async def story() -> None:
        async with house(tmp_path, hooked=True, door_spans=True) as at:
            body = {"model": "tiny", "stream": True, "script": {"tokens": 400, "pause_s": 0.005}}
            await at.client.post(RESPONSES, body, leave_after_events=6)
            _, closed = (await at.settled()).only()
            (span,) = spans.get_finished_spans()
            assert said(span)["rentroll.ending"] == "aborted"
            assert said(span)["rentroll.delivered_tokens"] == closed.delivered_tokens > 0
            assert not [name for name in said(span) if name.startswith("gen_ai.usage")]
            assert span.status.status_code is StatusCode.UNSET

    run(story)


def test_failed_request_is_an_error_with_its_status(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async def story() -> None:
        async with house(tmp_path, door_spans=True) as at:
            await at.client.post(COMPLETIONS, {"model": "tiny", "script": {"status": 500}})
            await at.settled()
            (span,) = spans.get_finished_spans()
            assert said(span)["error.type"] == "500"
            assert span.status.status_code is StatusCode.ERROR

    run(story)


def test_door_that_is_not_asked_says_nothing(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            await at.client.post(COMPLETIONS, {"model": "tiny"}, (TRACEPARENT,))
            await at.settled()
            assert spans.get_finished_spans() == ()
            (scope, _) = at.app.seen[0]
            assert dict(scope["headers"])[b"traceparent"] == TRACEPARENT[1].encode()

    run(story)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("0", "served without"), ("1", "SettingsError: RENTROLL_INFERENCE_DOOR_SPANS needs Open")],
)
def test_without_the_package_only_who_asks_for_spans_is_refused(
    tmp_path: Path, asked: str, expected: str
) -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from pathlib import Path\n"
        "from inference.middleware import RentrollMiddleware\n"
        "from tests.support.doors import door_key, living_door, snapshot\n"
        f"door = living_door(Path({str(tmp_path)!r}), snapshot([door_key()]), door_spans={asked})\n"
        "RentrollMiddleware(None, door)\n"
        "print('served without')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert expected in found.stdout + found.stderr
