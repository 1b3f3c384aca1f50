"""The check against Stripe's OpenAPI file refuses what Stripe would not take or send."""

from typing import Any

import pytest

from infra.stripe_fake.contract import Complaint, Contract, Operation
from infra.stripe_fake.cut_contract import cut_contract
from infra.stripe_fake.shapes import new_customer

CONTRACT = Contract()


def operation(method: str, path: str) -> Operation:
    found = CONTRACT.operation(method, path)
    assert found is not None
    return found[0]


def complaints(method: str, path: str, form: dict[str, Any]) -> list[Complaint]:
    return CONTRACT.read_request(operation(method, path), form)[1]


def test_form_text_becomes_typed_values() -> None:
    create = operation("POST", "/v1/invoices")
    form = {"customer": "cus_1", "days_until_due": "30", "auto_advance": "false"}
    parameters, found = CONTRACT.read_request(create, form)
    assert found == []
    assert parameters == {"customer": "cus_1", "days_until_due": 30, "auto_advance": False}


@pytest.mark.parametrize(
    ("form", "at"),
    [
        ({"colour": "red"}, "colour"),
        ({"days_until_due": "soon"}, "days_until_due"),
        ({"auto_advance": "1"}, "auto_advance"),
        ({"collection_method": "carrier_pigeon"}, "collection_method"),
        ({"description": {"0": "x"}}, "description"),
        ({"custom_fields": {"0": {"name": "PO"}}}, "custom_fields[0][value]"),
    ],
)
def test_a_planted_fault_in_a_request_is_caught(form: dict[str, Any], at: str) -> None:
    assert [one.at for one in complaints("POST", "/v1/invoices", form)] == [at]


def test_a_missing_required_parameter_is_caught() -> None:
    (found,) = complaints("POST", "/v1/invoices/in_1/add_lines", {})
    assert (found.at, found.code) == ("lines", "parameter_missing")


def test_a_decimal_in_exponent_form_is_caught() -> None:
    line = {"unit_amount_decimal": "5E-7"}
    assert complaints("POST", "/v1/invoiceitems", {"customer": "cus_1"} | line)


def test_a_good_answer_has_no_complaint() -> None:
    show = operation("GET", "/v1/customers/cus_1")
    assert CONTRACT.check_answer(show, new_customer("cus_1", {}, 0)) == []


@pytest.mark.parametrize(
    "fault",
    [
        {"created": "now"},
        {"livemode": 1},
        {"object": "client"},
        {"name": "n" * 5_001},
        {"created": None},
        {"invented": 1},
    ],
)
def test_a_planted_fault_in_an_answer_is_caught(fault: dict[str, Any]) -> None:
    create = operation("POST", "/v1/customers")
    answer = new_customer("cus_1", {}, 0)
    assert CONTRACT.check_answer(create, answer) == []
    assert CONTRACT.check_answer(create, answer | fault)


def test_a_missing_field_in_an_answer_is_caught() -> None:
    answer = new_customer("cus_1", {}, 0)
    del answer["livemode"]
    found = CONTRACT.check_answer(operation("POST", "/v1/customers"), answer)
    assert [str(one) for one in found] == ["$.livemode: missing"]


def test_a_literal_path_is_not_taken_for_an_id() -> None:
    assert operation("GET", "/v1/invoices/search").name == "GET /v1/invoices/search"
    assert CONTRACT.operation("GET", "/v1/teapots") is None


def test_the_cut_keeps_what_is_referred_to_and_drops_prose() -> None:
    spec = {
        "info": {"version": "test"},
        "components": {
            "schemas": {
                "thing": {
                    "type": "object",
                    "description": "prose",
                    "properties": {
                        "title": {"type": "string"},
                        "part": {"$ref": "#/components/schemas/part"},
                        "owner": {
                            "anyOf": [{"type": "string"}, {"$ref": "#/components/schemas/owner"}],
                            "x-expansionResources": {},
                        },
                    },
                },
                "part": {"type": "object"},
                "owner": {"type": "object"},
                "error": {"type": "object"},
                "unused": {"type": "object"},
            }
        },
        "paths": {
            "/v1/things": {
                "get": {
                    "parameters": [{"name": "limit", "in": "query", "schema": {"type": "integer"}}],
                    "responses": {
                        "200": {
                            "content": {
                                "application/json": {
                                    "schema": {"$ref": "#/components/schemas/thing"}
                                }
                            }
                        }
                    },
                }
            }
        },
    }
    cut = cut_contract(spec, ("GET /v1/things",))
    assert set(cut["schemas"]) == {"thing", "part", "error"}
    assert cut["schemas"]["thing"]["properties"]["owner"] == {"type": "string"}
    assert "description" not in cut["schemas"]["thing"]
    assert "title" in cut["schemas"]["thing"]["properties"]
    contract = Contract(cut)
    found = contract.operation("GET", "/v1/things")
    assert found is not None
    assert contract.check_answer(found[0], {"title": "a", "part": {}, "owner": "o_1"}) == []
    assert contract.read_request(found[0], {"page": "2"})[1]
