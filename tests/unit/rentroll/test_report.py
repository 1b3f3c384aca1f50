"""The closing table says where two stages disagree, and by how much."""

from dataclasses import replace

import pytest

from rentroll.report import STAGES, RunReport, ServedReport, StageTotals
from rentroll.served_counts import Side

COUNTED = StageTotals(
    events=3,
    tokens={"input_uncached_tokens": 10, "input_cache_read_tokens": 4, "output_text_tokens": 7},
    gpu_ns=1_000,
)
CHARGED = replace(COUNTED, amount_minor=250)


def a_report() -> RunReport:
    totals = dict.fromkeys(STAGES, COUNTED) | {"rated": CHARGED, "stripe": CHARGED}
    return RunReport(
        totals=totals,
        lost=0,
        doubled=0,
        held_hours=(),
        held_invoices=(),
        dead_letters=(),
        invoices=1,
        currency="USD",
        seconds={"ingest": 1.5},
    )


def a_served_report() -> ServedReport:
    side = Side(events=COUNTED.events, tokens=COUNTED.tokens)
    return ServedReport(
        model="small",
        license="Apache-2.0",
        totals=a_report().totals,
        clients=side,
        engine=replace(side, gpu_ns=COUNTED.gpu_ns),
        endings={"answered": 3},
        disagreements=(),
        seconds={"boot": 9.5},
    )


def test_equal_counts_close() -> None:
    assert a_report().closes()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "other",
    [
        replace(CHARGED, events=2),
        replace(CHARGED, gpu_ns=1_001),
        replace(CHARGED, tokens=CHARGED.tokens | {"output_text_tokens": 8}),
        replace(CHARGED, tokens=CHARGED.tokens | {"output_reasoning_tokens": 1}),
        replace(CHARGED, amount_minor=249),
    ],
    ids=["an event", "a nanosecond", "a token", "a token of another kind", "a cent"],
)
def test_one_unit_at_one_stage_does_not_close(stage: str, other: StageTotals) -> None:
    report = a_report()
    if other.amount_minor == CHARGED.amount_minor and stage not in {"rated", "stripe"}:
        other = replace(other, amount_minor=None)
    report.totals[stage] = other
    assert not report.closes()


@pytest.mark.parametrize(
    "trouble",
    [
        {"lost": 1},
        {"doubled": 1},
        {"held_hours": ("2026-10-01T00:00Z: hole",)},
        {"held_invoices": ("acme: no price",)},
        {"dead_letters": ("usage.v1/0/7: malformed",)},
    ],
    ids=lambda trouble: next(iter(trouble)),
)
def test_trouble_does_not_close_even_where_counts_agree(trouble: dict[str, object]) -> None:
    assert not replace(a_report(), **trouble).closes()  # type: ignore[arg-type]


def test_kinds_of_tokens_that_cancel_in_the_sum_still_differ() -> None:
    report = a_report()
    moved = {"input_uncached_tokens": 9, "output_text_tokens": 8}
    report.totals["ledger"] = replace(COUNTED, tokens=COUNTED.tokens | moved)
    shown = report.as_json()
    assert shown["tokens"]["difference"] == 0
    assert shown["tokens_by_kind"]["output_text_tokens"]["difference"] == 1
    assert not shown["closes"]


def test_json_names_every_stage_where_it_applies() -> None:
    shown = a_report().as_json()
    for name in ("events", "tokens", "gpu_ns"):
        assert set(shown[name]) == {*STAGES, "difference"}
    assert shown["amount_minor"] == {"rated": 250, "stripe": 250, "difference": 0}
    assert shown["held_hours"] == 0
    assert shown["seconds"] == {"ingest": 1.5}


def test_what_clients_engine_and_every_stage_counted_alike_closes() -> None:
    assert replace(a_report(), served=a_served_report()).closes()


@pytest.mark.parametrize("side", ["clients", "engine"])
@pytest.mark.parametrize(
    "change",
    [{"events": 4}, {"tokens": COUNTED.tokens | {"output_text_tokens": 8}}, {"gpu_ns": 999}],
    ids=["a request", "a token", "a nanosecond"],
)
def test_one_unit_that_clients_or_engine_counted_apart_does_not_close(
    side: str, change: dict[str, object]
) -> None:
    served = a_served_report()
    other = replace(getattr(served, side), **change)
    assert not replace(a_report(), served=replace(served, **{side: other})).closes()


def test_what_a_side_cannot_know_counts_with_what_it_counted() -> None:
    served = a_served_report()
    fewer = COUNTED.tokens | {"output_text_tokens": 5}
    clients = replace(served.clients, tokens=fewer, unseen_tokens={"output_text_tokens": 2})
    told = replace(served, clients=clients)
    assert told.closes()
    assert told.as_json()["unseen"]["clients"] == {"events": 0, "output_text_tokens": 2}


def test_a_request_on_which_client_and_ledger_differ_does_not_close() -> None:
    served = replace(a_served_report(), disagreements=("fern chat: told 8, holds 9",))
    assert not replace(a_report(), served=served).closes()


def test_json_of_the_served_model_names_both_ends_beside_every_stage() -> None:
    shown = replace(a_report(), served=a_served_report()).as_json()["served"]
    assert set(shown["events"]) == {"clients", "engine", *STAGES, "difference"}
    assert set(shown["gpu_ns"]) == {"engine", *STAGES, "difference"}
    assert set(shown["amount_minor"]) == {"rated", "stripe", "difference"}
    assert shown["tokens"]["clients"] == 21
    assert a_report().as_json()["served"] is None
