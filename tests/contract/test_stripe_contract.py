"""A whole issuing run stays inside Stripe's OpenAPI file and the SDK's typed parameters.

Answers are judged twice: by the stand-in's own check, and by the `jsonschema` library, which
shares no line with it.
"""

import copy
import importlib
import re
import typing
from typing import Any

import jsonschema
import pytest
import stripe.params
from sqlalchemy import Engine

from billing.crediting import CreditLine, CreditNote, end_invoice, issue_credit_note
from billing.invoice_run import run_invoices, totals_on_stripe
from billing.stripe_gateway import StripeGateway
from infra.stripe_fake.contract import Contract
from schemas.clock import SystemClock
from tests.support.planned_invoices import PERIOD, make_invoice, plan, sqlite_store
from tests.support.servers.stripe_fake import StandIn, stand_in

Exchange = dict[str, Any]
CONTRACT = Contract()
PARAMETERS = {
    r"/v1/customers": "CustomerCreateParams",
    r"/v1/invoices": "InvoiceCreateParams",
    r"/v1/invoices/\w+/add_lines": "InvoiceAddLinesParams",
    r"/v1/invoices/\w+/finalize": "InvoiceFinalizeInvoiceParams",
    r"/v1/invoices/\w+/send": "InvoiceSendInvoiceParams",
    r"/v1/invoices/\w+/void": "InvoiceVoidInvoiceParams",
    r"/v1/invoices/\w+/mark_uncollectible": "InvoiceMarkUncollectibleParams",
    r"/v1/credit_notes": "CreditNoteCreateParams",
}
QUERIES = {
    r"/v1/customers": "CustomerListParams",
    r"/v1/invoices": "InvoiceListParams",
    r"/v1/invoices/\w+": "InvoiceRetrieveParams",
    r"/v1/invoices/\w+/lines": "InvoiceLineItemListParams",
    r"/v1/events": "EventListParams",
}


@pytest.fixture(scope="module")
def exchanges(tmp_path_factory: pytest.TempPathFactory) -> list[Exchange]:
    """Every request and answer of a run that meets a lost answer and a forgotten key."""
    folder = tmp_path_factory.mktemp("run")
    with stand_in(folder / "stripe") as server, sqlite_store(folder / "store.db") as store:
        gateway = StripeGateway("sk_test_rentroll", server.base)
        small = plan(store, make_invoice("small"))
        large = plan(store, make_invoice("large", models=40))
        server.plant("POST", "finalize$", "drop_after")
        for path in ("customers$", "invoices$", "add_lines$", "finalize$", "send$"):
            server.plant("POST", path, "error_stored")
        result = run_invoices(store, gateway, period=PERIOD, clock=SystemClock(), workers=1)
        assert result.is_complete
        assert totals_on_stripe(gateway, PERIOD).invoices == 2
        give_up(store, gateway, server, small.id, large.id)
        gateway.close()
        return server.exchanges(path="/v1/")


def give_up(store: Engine, gateway: StripeGateway, server: StandIn, small: str, large: str) -> None:
    """A credit note, an invoice that is written off and then void, each in doubt once."""
    for path in ("credit_notes$", "mark_uncollectible$", "void$"):
        server.plant("POST", path, "error_stored")
    note = CreditNote(small, "T-17", (CreditLine("outage", 100),), memo="outage of 3 October")
    issue_credit_note(store, gateway, SystemClock(), note)
    end_invoice(store, gateway, SystemClock(), large, "uncollectible")
    end_invoice(store, gateway, SystemClock(), large, "void")


def test_the_run_used_every_call_of_the_gateway(exchanges: list[Exchange]) -> None:
    used = {(one["method"], re.sub(r"in_\w+", "{invoice}", one["path"])) for one in exchanges}
    assert used == {
        ("POST", "/v1/customers"),
        ("GET", "/v1/customers"),
        ("POST", "/v1/invoices"),
        ("GET", "/v1/invoices"),
        ("GET", "/v1/invoices/{invoice}"),
        ("POST", "/v1/invoices/{invoice}/add_lines"),
        ("GET", "/v1/invoices/{invoice}/lines"),
        ("POST", "/v1/invoices/{invoice}/finalize"),
        ("POST", "/v1/invoices/{invoice}/send"),
        ("GET", "/v1/events"),
        ("POST", "/v1/credit_notes"),
        ("POST", "/v1/invoices/{invoice}/mark_uncollectible"),
        ("POST", "/v1/invoices/{invoice}/void"),
    }


def test_every_request_is_one_that_stripe_takes(exchanges: list[Exchange]) -> None:
    for one in exchanges:
        found = CONTRACT.operation(one["method"], one["path"])
        assert found is not None
        assert CONTRACT.read_request(found[0], one["form"])[1] == []


def test_every_write_carries_an_idempotency_key(exchanges: list[Exchange]) -> None:
    assert all(one["key"].startswith("rr1_") for one in exchanges if one["method"] == "POST")


def test_every_answer_is_one_that_stripe_could_send(exchanges: list[Exchange]) -> None:
    judged = 0
    for one in exchanges:
        if one["status"] != 200:
            continue
        found = CONTRACT.operation(one["method"], one["path"])
        assert found is not None
        assert CONTRACT.check_answer(found[0], one["body"]) == []
        validator(found[0].answer).validate(one["body"])
        judged += 1
    assert judged >= 20


@pytest.mark.parametrize(
    "plant",
    [
        lambda body: body.pop("total"),
        lambda body: body.update(total="4229"),
        lambda body: body.update(status="almost"),
        lambda body: body["lines"]["data"][0].update(amount=1.5),
        lambda body: body["lines"]["data"][0].pop("currency"),
        lambda body: body.update(metadata={"a": 1}),
    ],
    ids=[
        "missing",
        "text for a number",
        "unknown status",
        "float",
        "nested missing",
        "nested type",
    ],
)
def test_a_fault_planted_in_an_answer_is_seen_by_both_judges(
    exchanges: list[Exchange], plant: typing.Callable[[dict[str, Any]], object]
) -> None:
    one = next(
        one for one in exchanges if one["path"].endswith("/add_lines") and one["status"] == 200
    )
    found = CONTRACT.operation(one["method"], one["path"])
    assert found is not None
    wrong = copy.deepcopy(one["body"])
    plant(wrong)
    with pytest.raises(jsonschema.ValidationError):
        validator(found[0].answer).validate(wrong)
    assert CONTRACT.check_answer(found[0], wrong)


def test_every_parameter_is_known_to_the_sdk(exchanges: list[Exchange]) -> None:
    for one in exchanges:
        names = PARAMETERS if one["method"] == "POST" else QUERIES
        (name,) = [known for path, known in names.items() if re.fullmatch(path, one["path"])]
        assert unknown(getattr(stripe.params, name), one["form"]) == []


def test_a_parameter_that_the_sdk_does_not_know_is_seen() -> None:
    form = {"customer": "c", "nope": "1", "custom_fields": {"0": {"name": "a", "colour": "b"}}}
    found = unknown(stripe.params.InvoiceCreateParams, form)
    assert found == ["nope", "custom_fields.0.colour"]


def unknown(parameters: Any, form: dict[str, Any], at: str = "") -> list[str]:
    """Names in a form that the SDK's TypedDict does not have, at any depth."""
    module = importlib.import_module(parameters.__module__)
    hints: dict[str, Any] = {}
    for base in (*getattr(parameters, "__orig_bases__", ()), parameters):
        hints |= getattr(base, "__annotations__", {})
    found = []
    for name, value in form.items():
        if name not in hints:
            found.append(at + name)
        elif isinstance(value, dict) and "Dict[str, str]" not in str(hints[name]):
            inner = re.findall(rf"\b{parameters.__name__}\w+", str(hints[name]))
            assert inner, f"no TypedDict for {at}{name}: {hints[name]}"
            nested = getattr(module, inner[0])
            items = value.items() if all(key.isdigit() for key in value) else [("", value)]
            for key, one in items:
                found += unknown(nested, one, f"{at}{name}.{key}." if key else f"{at}{name}.")
    return found


def validator(answer: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """A JSON Schema validator of an answer; OpenAPI 3.0's `nullable` becomes a second type."""
    schemas = {name: as_json_schema(one) for name, one in CONTRACT._schemas.items()}
    return jsonschema.Draft202012Validator(
        {**as_json_schema(answer), "components": {"schemas": schemas}}
    )


def as_json_schema(schema: Any) -> Any:
    if isinstance(schema, list):
        return [as_json_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: as_json_schema(one) for name, one in schema.items() if name != "nullable"}
    result.pop("format", None)
    if schema.get("nullable") is True:
        return {"anyOf": [{"type": "null"}, result]}
    return result
