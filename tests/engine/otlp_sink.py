"""Receives what an OTLP exporter sends over HTTP; runs where vLLM is, which has its types."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

VARIABLES = {
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
}


@dataclass(frozen=True)
class Received:
    """One span; ids in hex, the parent's empty for none."""

    name: str
    trace: str
    span: str
    parent: str
    attributes: dict[str, Any]


@dataclass
class OtlpSink:
    """`endpoint` is what `--otlp-traces-endpoint` takes."""

    endpoint: str
    spans: list[Received] = field(default_factory=list)

    def of_trace(self, trace: str, enough: Callable[[list[Received]], bool]) -> list[Received]:
        """The spans of a trace, once they are enough."""
        deadline_s = time.monotonic() + 60
        while True:
            found = [one for one in self.spans if one.trace == trace]
            if enough(found):
                return found
            assert time.monotonic() < deadline_s, self.spans
            time.sleep(0.1)


@contextmanager
def otlp_sink() -> Iterator[OtlpSink]:
    """A sink on a free port."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    sink.spans.extend(map(_received, scope.spans))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink = OtlpSink(f"http://127.0.0.1:{server.server_address[1]}/v1/traces")
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield sink
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def _received(span: Any) -> Received:
    attributes = {one.key: _value(one.value) for one in span.attributes}
    return Received(
        span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), attributes
    )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return (
        [_value(one) for one in value.array_value.values]
        if kind == "array_value"
        else getattr(value, kind)
    )
