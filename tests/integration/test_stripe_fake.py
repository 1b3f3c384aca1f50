"""The stand-in as the unmodified SDK sees it: durable, idempotent, strict, and on loopback only."""

import itertools
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.support.servers.stripe_fake import StandIn, stand_in

DRAFT: dict[str, Any] = {
    "currency": "usd",
    "collection_method": "send_invoice",
    "days_until_due": 30,
    "auto_advance": False,
}
DAY_S = 24 * 3600
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    with stand_in(tmp_path_factory.mktemp("stripe")) as started:
        yield started


@pytest.fixture
def api(server: StandIn) -> Iterator[Any]:
    """The SDK's client, untyped: a test sends what the types forbid."""
    server.clear_faults()
    http = stripe.RequestsClient()
    client: Any = stripe.StripeClient(
        "sk_test_x", base_addresses={"api": server.base}, http_client=http
    )
    yield client.v1
    http.close()  # type: ignore[no-untyped-call]


def key() -> dict[str, str]:
    return {"idempotency_key": f"key-{next(_numbers)}"}


def draft(api: Any, *amounts: int, customer: str = "") -> Any:
    customer = customer or api.customers.create({"email": "a@example.invalid"}).id
    made = api.invoices.create(DRAFT | {"customer": customer})
    if amounts:
        api.invoices.add_lines(made.id, {"lines": [{"amount": one} for one in amounts]})
    return api.invoices.retrieve(made.id)


def test_what_was_answered_survives_kill_9(server: StandIn, api: Any) -> None:
    made = draft(api, 100, 200)
    used = key()
    done = api.invoices.finalize_invoice(made.id, {}, used)
    server.kill_and_restart()
    again = api.invoices.finalize_invoice(made.id, {}, used)
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert again.number == done.number
    assert [line.amount for line in api.invoices.line_items.list(made.id).data] == [200, 100]


def test_the_same_key_answers_the_same_and_makes_nothing_new(api: Any) -> None:
    used = key()
    body = {"email": "one@example.invalid"}
    first, second = (api.customers.create(body, used) for _ in range(2))
    assert first.id == second.id
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert len(api.customers.list({"email": "one@example.invalid"}).data) == 1


def test_the_same_key_with_another_body_is_refused(api: Any) -> None:
    used = key()
    api.customers.create({"name": "a"}, used)
    with pytest.raises(stripe.IdempotencyError, match="same parameters"):
        api.customers.create({"name": "b"}, used)


def test_a_key_is_forgotten_after_a_day(server: StandIn, api: Any) -> None:
    used = key()
    body = {"name": "a"}
    first = api.customers.create(body, used)
    server.advance(DAY_S - 60)
    assert api.customers.create(body, used).id == first.id
    server.advance(61)
    assert api.customers.create(body, used).id != first.id


def test_a_stored_500_is_replayed_until_another_key(server: StandIn, api: Any) -> None:
    made = draft(api, 100)
    used = key()
    server.plant("POST", "finalize$", "error_stored")
    for replayed in (None, "true"):
        with pytest.raises(stripe.APIError) as caught:
            api.invoices.finalize_invoice(made.id, {}, used)
        headers = caught.value.headers or {}
        assert headers.get("Idempotent-Replayed") == replayed
    assert api.invoices.retrieve(made.id).status == "draft"
    assert api.invoices.finalize_invoice(made.id, {}, key()).status == "open"


def test_a_request_that_fails_validation_uses_up_no_key(api: Any) -> None:
    used = key()
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter: nope"):
        api.customers.create({"nope": 1}, used)
    assert api.customers.create({"name": "a"}, used).name == "a"


def test_a_refused_operation_changes_nothing(api: Any) -> None:
    made = draft(api, 100)
    with pytest.raises(stripe.InvalidRequestError, match="exactly one of amount"):
        api.invoices.add_lines(made.id, {"lines": [{"amount": 1}, {"description": "no amount"}]})
    assert api.invoices.retrieve(made.id).total == 100


def test_a_request_under_a_key_in_use_conflicts(server: StandIn, api: Any) -> None:
    used = key()
    server.plant("POST", "customers$", "latency", latency_ms=700)
    with ThreadPoolExecutor(2) as pool:
        tries = [pool.submit(api.customers.create, {"name": "a"}, used) for _ in range(2)]
    failures = [one.exception() for one in tries]
    assert sorted(getattr(one, "http_status", 200) for one in failures) == [200, 409]


def test_lines_are_bounded_as_at_stripe(api: Any) -> None:
    made = draft(api)
    for count in (100, 100, 50):
        api.invoices.add_lines(made.id, {"lines": [{"amount": 1}] * count})
    with pytest.raises(stripe.InvalidRequestError, match="250"):
        api.invoices.add_lines(made.id, {"lines": [{"amount": 1}]})
    pages = api.invoices.line_items.list(made.id, {"limit": 100}).auto_paging_iter()
    assert len({line.id for line in pages}) == 250


@pytest.mark.parametrize(
    "metadata",
    [
        {f"k{n}": "v" for n in range(51)},
        {"k" * 41: "v"},
        {"k": "v" * 501},
    ],
    ids=["51 keys", "long key", "long value"],
)
def test_metadata_is_bounded_as_at_stripe(api: Any, metadata: dict[str, str]) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        api.customers.create({"metadata": metadata})
    made = draft(api)
    with pytest.raises(stripe.InvalidRequestError):
        api.invoices.add_lines(made.id, {"lines": [{"amount": 1, "metadata": metadata}]})


def test_an_empty_metadata_value_forgets_the_key(api: Any) -> None:
    made = api.customers.create({"metadata": {"a": "1", "b": ""}})
    assert made.metadata.to_dict() == {"a": "1"}
    changed = api.customers.update(made.id, {"metadata": {"a": "", "c": "2"}})
    assert changed.metadata.to_dict() == {"c": "2"}


def test_amounts_that_a_currency_cannot_carry_are_refused(api: Any) -> None:
    made = api.invoices.create(DRAFT | {"customer": draft(api).customer, "currency": "kwd"})
    with pytest.raises(stripe.InvalidRequestError, match="multiple of 10"):
        api.invoices.add_lines(made.id, {"lines": [{"amount": 5_125}]})


def test_nothing_due_is_paid_when_finalized(api: Any) -> None:
    made = api.invoices.finalize_invoice(draft(api, 0).id)
    assert (made.status, made.amount_due, made.total) == ("paid", 0, 0)


def test_too_little_to_charge_moves_to_the_next_invoice(api: Any) -> None:
    small = api.invoices.finalize_invoice(draft(api, 30).id)
    assert (small.status, small.amount_due, small.total, small.ending_balance) == (
        "paid",
        0,
        30,
        30,
    )
    assert api.customers.retrieve(small.customer).balance == 30
    following = api.invoices.finalize_invoice(draft(api, 500, customer=small.customer).id)
    assert (following.status, following.total, following.amount_due) == ("open", 500, 530)
    assert api.customers.retrieve(small.customer).balance == 0
    api.invoices.void_invoice(following.id)
    assert api.customers.retrieve(small.customer).balance == 30


def test_an_invoice_ends_paid_void_or_written_off(api: Any) -> None:
    paid, void, lost = (api.invoices.finalize_invoice(draft(api, 900).id) for _ in range(3))
    assert api.invoices.pay(paid.id).amount_paid == 900
    assert api.invoices.void_invoice(void.id).status == "void"
    assert api.invoices.mark_uncollectible(lost.id).status == "uncollectible"
    assert api.invoices.pay(lost.id).status == "paid"
    for refused in ("void_invoice", "pay", "finalize_invoice", "delete"):
        with pytest.raises(stripe.InvalidRequestError):
            getattr(api.invoices, refused)(paid.id)
    with pytest.raises(stripe.InvalidRequestError, match="no longer editable"):
        api.invoices.add_lines(paid.id, {"lines": [{"amount": 1}]})


def test_lists_are_filtered_and_paged_newest_first(api: Any) -> None:
    customer = api.customers.create({}).id
    made = [draft(api, customer=customer).id for _ in range(5)]
    listed = api.invoices.list({"customer": customer, "limit": 2}).auto_paging_iter()
    assert [one.id for one in listed] == made[::-1]
    api.invoices.finalize_invoice(made[0])
    open_ones = api.invoices.list({"customer": customer, "status": "paid"}).data
    assert [one.id for one in open_ones] == made[:1]
    with pytest.raises(stripe.InvalidRequestError):
        api.invoices.list({"limit": 101})


def test_events_tell_what_happened_for_30_days(server: StandIn, api: Any) -> None:
    made = api.invoices.finalize_invoice(draft(api, 700).id)
    api.invoices.send_invoice(made.id)

    def sent() -> list[str]:
        events = api.events.list({"type": "invoice.sent", "limit": 100}).data
        return [one.data.object["id"] for one in events]

    assert made.id in sent()
    server.advance(31 * DAY_S)
    assert made.id not in sent()


def test_no_key_no_answer(server: StandIn) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server.base}/v1/customers", timeout=5)


def test_it_listens_on_loopback_only(server: StandIn) -> None:
    port = int(server.base.rsplit(":", 1)[1])
    with socket.socket(socket.AF_INET) as outside:
        outside.settimeout(2)
        own_address = socket.gethostbyname(socket.gethostname())
        if not own_address.startswith("127."):
            assert outside.connect_ex((own_address, port)) != 0
    assert urllib.request.urlopen(f"{server.base}/healthz", timeout=5).status == 200


def test_without_faults_there_is_no_control(tmp_path: Path) -> None:
    with (
        stand_in(tmp_path, faults=False) as server,
        pytest.raises(urllib.error.HTTPError, match="404"),
    ):
        server.advance(1)
