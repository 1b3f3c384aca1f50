"""Which operations the stand-in serves, and what each does to its state."""

from collections.abc import Callable
from typing import Any

from infra.stripe_fake import credit_notes, invoices
from infra.stripe_fake.lines import add_line, show_invoice
from infra.stripe_fake.refusal import RefusalError
from infra.stripe_fake.shapes import merge_metadata, new_customer
from infra.stripe_fake.state import Body, State

_EVENTS_KEPT_S = 30 * 86_400
_MAX_METADATA = (50, 40, 500)
"""Keys an object, characters a key, characters a value."""

Served = Callable[[State, Body, Body], Body]
"""Takes the state, the ids in the path, the parameters; returns the answer."""


def _create_customer(state: State, _ids: Body, parameters: Body) -> Body:
    customer = new_customer(state.new_id("cus"), parameters, state.now_s())
    invoices.announce(state, "customer.created", customer)
    return state.put("customer", customer)


def _show_customer(state: State, ids: Body, _parameters: Body) -> Body:
    customer = state.get("customer", ids["customer"])
    return _deleted(customer) if customer.get("deleted") else customer


def _update_customer(state: State, ids: Body, parameters: Body) -> Body:
    customer = invoices.live_customer(state, ids["customer"])
    customer["metadata"] = merge_metadata(customer["metadata"], parameters)
    for name in ("name", "email", "description", "phone", "balance"):
        if name in parameters:
            customer[name] = parameters[name]
    return state.replace(customer)


def _delete_customer(state: State, ids: Body, _parameters: Body) -> Body:
    customer = invoices.live_customer(state, ids["customer"])
    invoices.announce(state, "customer.deleted", dict(customer))
    return _deleted(state.replace(customer | {"deleted": True}))


def _deleted(customer: Body) -> Body:
    return {"id": customer["id"], "object": "customer", "deleted": True}


def _list_customers(state: State, _ids: Body, query: Body) -> Body:
    found, more = state.newest("customer", "", query, ("email",))
    return _page("/v1/customers", [one for one in found if not one.get("deleted")], more=more)


def _list_invoices(state: State, _ids: Body, query: Body) -> Body:
    found, more = state.newest(
        "invoice", query.get("customer", ""), query, ("status", "collection_method")
    )
    return _page("/v1/invoices", [show_invoice(state, one) for one in found], more=more)


def _list_lines(state: State, ids: Body, query: Body) -> Body:
    invoice = state.get("invoice", ids["invoice"])
    found, more = state.newest("line_item", invoice["id"], query, ())
    return _page(f"/v1/invoices/{invoice['id']}/lines", found, more=more)


def _list_items(state: State, _ids: Body, query: Body) -> Body:
    found, more = state.newest("invoiceitem", query.get("invoice", ""), query, ("customer",))
    shown = [_show_item(one) for one in found]
    return _page("/v1/invoiceitems", shown, more=more)


def _create_item(state: State, _ids: Body, parameters: Body) -> Body:
    invoice = state.get("invoice", parameters.get("invoice", ""), "invoice")
    item = add_line(state, invoice, parameters)
    invoices.retotal(state, invoice)
    return _show_item(item)


def _show_item(item: Body) -> Body:
    # `created` is ours, for the filter of lists; Stripe calls the moment `date`.
    return {name: value for name, value in item.items() if name != "created"}


def _list_events(state: State, _ids: Body, query: Body) -> Body:
    oldest = state.now_s() - _EVENTS_KEPT_S
    created = query.get("created")
    if isinstance(created, dict):
        oldest = max(oldest, created.get("gte", oldest))
        query = query | {"created": created | {"gte": oldest}}
    elif created is None:
        query = query | {"created": {"gte": oldest}}
    found, more = state.newest("event", "", query, ("type",))
    return _page("/v1/events", found, more=more)


def _page(url: str, data: list[Body], *, more: bool) -> Body:
    return {"object": "list", "url": url, "data": data, "has_more": more}


def _on_invoice(change: Callable[[State, Body, Body], Body]) -> Served:
    def serve(state: State, ids: Body, parameters: Body) -> Body:
        invoice = change(state, state.get("invoice", ids["invoice"]), parameters)
        return invoice if invoice.get("deleted") else show_invoice(state, invoice)

    return serve


SERVED: dict[str, Served] = {
    "POST /v1/customers": _create_customer,
    "GET /v1/customers": _list_customers,
    "GET /v1/customers/{customer}": _show_customer,
    "POST /v1/customers/{customer}": _update_customer,
    "DELETE /v1/customers/{customer}": _delete_customer,
    "POST /v1/invoices": lambda s, _, p: show_invoice(s, invoices.create(s, p)),
    "GET /v1/invoices": _list_invoices,
    "GET /v1/invoices/{invoice}": _on_invoice(lambda _s, i, _p: i),
    "POST /v1/invoices/{invoice}": _on_invoice(invoices.update),
    "DELETE /v1/invoices/{invoice}": _on_invoice(lambda s, i, _: invoices.delete(s, i)),
    "GET /v1/invoices/{invoice}/lines": _list_lines,
    "POST /v1/invoices/{invoice}/add_lines": _on_invoice(
        lambda s, i, p: invoices.add_lines(s, i, p["lines"])
    ),
    "POST /v1/invoices/{invoice}/finalize": _on_invoice(invoices.finalize),
    "POST /v1/invoices/{invoice}/send": _on_invoice(lambda s, i, _: invoices.send(s, i)),
    "POST /v1/invoices/{invoice}/pay": _on_invoice(lambda s, i, _: invoices.pay(s, i)),
    "POST /v1/invoices/{invoice}/void": _on_invoice(lambda s, i, _: invoices.void(s, i)),
    "POST /v1/invoices/{invoice}/mark_uncollectible": _on_invoice(
        lambda s, i, _: invoices.mark_uncollectible(s, i)
    ),
    "POST /v1/credit_notes": lambda s, _, p: credit_notes.create(s, p),
    "POST /v1/invoiceitems": _create_item,
    "GET /v1/invoiceitems": _list_items,
    "GET /v1/events": _list_events,
    "GET /v1/events/{id}": lambda s, ids, _: s.get("event", ids["id"]),
}


def check_metadata(parameters: Any) -> None:
    """Hold every `metadata` in a request, at any depth, to Stripe's limits.

    Raises:
        RefusalError: If one has too many keys, or a key or value is too long.
    """
    if isinstance(parameters, list):
        for one in parameters:
            check_metadata(one)
    if not isinstance(parameters, dict):
        return
    for name, value in parameters.items():
        if name == "metadata" and isinstance(value, dict):
            _check_one_metadata(value)
        else:
            check_metadata(value)


def _check_one_metadata(metadata: Body) -> None:
    keys, key_length, value_length = _MAX_METADATA
    if len(metadata) > keys:
        raise RefusalError(f"You can only set {keys} metadata keys.", param="metadata")
    for key, value in metadata.items():
        if len(key) > key_length:
            raise RefusalError(f"Metadata key over {key_length} characters.", param=key)
        if len(str(value)) > value_length:
            raise RefusalError(f"Metadata value over {value_length} characters.", param=key)
