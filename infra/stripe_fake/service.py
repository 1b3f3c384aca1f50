"""Answers one request: faults, key, contract, operation, in Stripe's order."""

import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from infra.stripe_fake.contract import Contract, Operation
from infra.stripe_fake.faults import Fault, Faults
from infra.stripe_fake.forms import read_form
from infra.stripe_fake.idempotency import KeptAnswer, digest_of, keep, recall
from infra.stripe_fake.operations import SERVED, check_metadata
from infra.stripe_fake.refusal import RefusalError, error_body
from infra.stripe_fake.state import Body, State
from schemas.units import MS_PER_S

API_VERSION = "2026-10-28.endive"
_TEST_KEY = re.compile(r"Bearer (sk|rk)_test_\w+")
_OK = 200
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    form: Body
    authorization: str
    key: str
    """The idempotency key, or the empty string."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    status: int
    body: Body
    headers: dict[str, str] = field(default_factory=dict)


def read_request(method: str, target: str, headers: dict[str, str], payload: bytes) -> Request:
    """A request from its parts; `headers` has lower-case names."""
    path, _, query = target.partition("?")
    return Request(
        method=method,
        path=path,
        form=read_form(payload.decode() if method == "POST" else query),
        authorization=headers.get("authorization", ""),
        key=headers.get("idempotency-key", "") if method == "POST" else "",
    )


class Service:
    """The stand-in behind its HTTP door."""

    def __init__(self, state: State, *, faults: bool) -> None:
        self._state = state
        self._contract = Contract()
        self._in_use: set[str] = set()
        self._in_use_lock = threading.Lock()
        self.faults = Faults() if faults else None
        self.exchanges: list[Body] = []
        """Every request and answer, kept only where faults may be planted: in tests."""

    def answer(self, request: Request) -> Answer | None:
        """The answer to a request; None where the connection must break."""
        fault = self.faults.take(request.method, request.path) if self.faults else None
        if fault and fault.kind == "drop_before":
            return self._log(request, None, "drop_before")
        if fault and fault.kind == "error_before":
            body = error_body(f"planted {fault.status}", kind="api_error")
            return self._log(request, Answer(fault.status, body), "error_before")
        answer = self._answer_once(request, fault)
        if fault and fault.kind == "drop_after":
            return self._log(request, None, "drop_after")
        return self._log(request, answer, fault.kind if fault else "")

    def _log(self, request: Request, answer: Answer | None, fault: str) -> Answer | None:
        if self.faults is not None:
            self.exchanges.append(
                {
                    "method": request.method,
                    "path": request.path,
                    "form": request.form,
                    "key": request.key,
                    "fault": fault,
                    "status": answer.status if answer else None,
                    "body": answer.body if answer else None,
                    "replayed": bool(answer and "Idempotent-Replayed" in answer.headers),
                }
            )
        return answer

    def _answer_once(self, request: Request, fault: Fault | None) -> Answer:
        """Refuse a key that another request is using this moment, else go on."""
        if not request.key:
            return self._answer_keyed(request, fault)
        with self._in_use_lock:
            if request.key in self._in_use:
                body = error_body(
                    "There is currently another in-progress request using this key.",
                    code="idempotency_key_in_use",
                    kind="idempotency_error",
                )
                return Answer(409, body)
            self._in_use.add(request.key)
        try:
            return self._answer_keyed(request, fault)
        finally:
            with self._in_use_lock:
                self._in_use.discard(request.key)

    def _answer_keyed(self, request: Request, fault: Fault | None) -> Answer:
        if fault and fault.kind == "latency":
            # Here, not earlier: whoever comes meanwhile finds the key in use.
            time.sleep(fault.latency_ms / MS_PER_S)
        if not _TEST_KEY.fullmatch(request.authorization):
            return Answer(401, error_body("Invalid API Key provided"))
        found = self._contract.operation(request.method, request.path)
        if found is None or found[0].name not in SERVED:
            message = f"Unrecognized request URL ({request.method}: {request.path})."
            return Answer(404, error_body(message))
        digest = digest_of(request.path, request.form)
        with self._state.transaction():
            request_id = self._state.new_id("req")
            headers = {"Request-Id": request_id, "Stripe-Version": API_VERSION}
            try:
                kept = recall(self._state, request.key, digest) if request.key else None
                if kept:
                    headers |= {
                        "Idempotent-Replayed": "true",
                        "Original-Request": kept.request_id,
                    }
                    return Answer(kept.status, kept.body, headers)
                parameters = self._validated(found[0], request)
            except RefusalError as refusal:
                return Answer(refusal.status, refusal.body, headers)
            status, body = self._execute(*found, parameters, fault)
            if request.key:
                keep(self._state, request.key, digest, KeptAnswer(status, body, request_id))
            return Answer(status, body, headers)

    def _validated(self, operation: Operation, request: Request) -> Body:
        parameters, complaints = self._contract.read_request(operation, request.form)
        if complaints:
            first = complaints[0]
            raise RefusalError(first.problem, code=first.code, param=first.at)
        check_metadata(parameters)
        return parameters

    def _execute(
        self, operation: Operation, ids: dict[str, str], parameters: Body, fault: Fault | None
    ) -> tuple[int, Body]:
        """Status and body; whatever is refused or breaks the contract changes nothing."""
        if fault and fault.kind == "error_stored":
            return fault.status, error_body(f"planted {fault.status}", kind="api_error")
        try:
            with self._state.undo_on_refusal():
                body = SERVED[operation.name](self._state, ids, parameters)
                self._hold_to_contract(operation, body)
        except RefusalError as refusal:
            return refusal.status, refusal.body
        if fault and fault.kind == "error_after":
            return fault.status, error_body(f"planted {fault.status}", kind="api_error")
        return _OK, body

    def _hold_to_contract(self, operation: Operation, body: Any) -> None:
        complaints = self._contract.check_answer(operation, body)
        if complaints:
            raise RefusalError(
                f"the stand-in's answer to {operation.name} breaks Stripe's contract:"
                f" {complaints[0]}",
                status=_SERVER_ERROR,
                kind="api_error",
            )
