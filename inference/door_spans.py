"""What the door says on OpenTelemetry spans, on request; the only file that imports OpenTelemetry.

Where a span is current, such as one of an instrumentation in front of the door, it gets the
attributes. Else the door starts one, below the client's `traceparent`. Either goes on to vLLM in
that header, so what vLLM traces with `--otlp-traces-endpoint` lies below it. Tracer provider and
propagators are the process's own; without a provider nothing is recorded.

Names are those of the GenAI semantic conventions (OpenTelemetry 1.45), and `rentroll.*` for what
they have none for. No prompt, no answer, no key and no end user is in a span.
"""

from collections.abc import Mapping, Sequence
from contextvars import Token
from typing import NamedTuple

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from inference.door_delivery import Ending
from inference.door_records import DoorOpen

Headers = Sequence[tuple[bytes, bytes]]

_OPERATION = {
    "v1/chat/completions": "chat",
    "v1/responses": "chat",
    "v1/completions": "text_completion",
    "v1/embeddings": "embeddings",
}
_CONTEXT_HEADERS = ("traceparent", "tracestate")
"""Those that vLLM reads; what else a propagator writes, such as baggage, stays at the door."""


class DoorSpan(NamedTuple):
    """A span that speaks of one request, and the headers that carry it on.

    `token` is None where the span is somebody else's, who ends it.
    """

    span: Span
    token: Token[Context] | None
    headers: list[tuple[bytes, bytes]]


class DoorSpans:
    """Begins and ends what is said of a request; both in the task that serves it."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("rentroll.door")

    def begin(self, opened: DoorOpen, headers: Headers) -> DoorSpan:
        """Say whose request was admitted, on the current span or on one of its own.

        Args:
            opened: What the door wrote down of it.
            headers: Those that are passed on to the engine.
        """
        span, token = trace.get_current_span(), None
        if not span.get_span_context().is_valid:
            span = self._tracer.start_span(
                f"{_OPERATION[opened.endpoint]} {opened.model}".rstrip(),
                context=propagate.extract(_carrier(headers)),
                kind=SpanKind.SERVER,
            )
            token = context.attach(trace.set_span_in_context(span))
        span.set_attributes(_asked(opened))
        return DoorSpan(span, token, _carrying(headers, span))

    def end(self, begun: DoorSpan, ending: Ending) -> None:
        """Say how the request ended and what it used, while the span has not ended; again is fine.

        Instrumentations end theirs with the last byte of the answer, so it is said before that too.
        """
        span = begun.span
        if span.is_recording():
            span.set_attributes(_answered(ending))
            if ending.ending == "failed":
                span.set_attribute("error.type", str(ending.status))
                span.set_status(Status(StatusCode.ERROR))
        if begun.token is not None:
            span.set_attribute("http.response.status_code", ending.status)
            context.detach(begun.token)
            span.end()


def _asked(opened: DoorOpen) -> Mapping[str, AttributeValue]:
    return {
        "gen_ai.operation.name": _OPERATION[opened.endpoint],
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": opened.model,
        "rentroll.request_id": opened.id,
        "rentroll.tenant": opened.tenant,
        "rentroll.project": opened.project,
        "rentroll.service_tier": opened.service_tier,
    }


def _answered(ending: Ending) -> Mapping[str, AttributeValue]:
    """Usage only where the server computed one: a count of what was delivered is no usage."""
    said: dict[str, AttributeValue] = {
        "rentroll.ending": ending.ending,
        "rentroll.delivered_tokens": ending.delivered_tokens,
    }
    if ending.model:
        said["gen_ai.response.model"] = ending.model
    if ending.finish_reason:
        said["gen_ai.response.finish_reasons"] = [ending.finish_reason]
    if ending.usage is not None:
        said["gen_ai.usage.input_tokens"] = ending.usage.input_tokens
        said["gen_ai.usage.cache_read.input_tokens"] = ending.usage.cached_tokens
        said["gen_ai.usage.output_tokens"] = ending.usage.output_tokens
        said["gen_ai.usage.reasoning.output_tokens"] = ending.usage.reasoning_tokens
    return said


def _carrier(headers: Headers) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}


def _carrying(headers: Headers, span: Span) -> list[tuple[bytes, bytes]]:
    """The headers, with this span as the parent of what is traced behind the door."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    written = {name: carrier[name] for name in _CONTEXT_HEADERS if name in carrier}
    replaced = {name.encode() for name in written}
    kept = [header for header in headers if header[0] not in replaced]
    return kept + [(name.encode(), value.encode("latin-1")) for name, value in written.items()]
