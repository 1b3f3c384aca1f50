"""What a person reads of a run: whole figures in 80 columns, and every trouble by name."""

import io
from dataclasses import replace

from rich.console import Console

from rentroll.demo_views import show_report
from rentroll.report import STAGES, RunReport, ServedReport, StageTotals
from rentroll.served_counts import Side

LARGE = StageTotals(
    events=19_366,
    tokens={
        "input_uncached_tokens": 19_271_182,
        "input_cache_read_tokens": 3_090_688,
        "output_text_tokens": 4_088_665,
    },
    gpu_ns=34_017_783_418_379,
)


def shown(report: RunReport) -> str:
    console = Console(file=io.StringIO(), width=80)
    show_report(console, report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def a_report() -> RunReport:
    charged = replace(LARGE, amount_minor=749)
    totals = dict.fromkeys(STAGES, LARGE) | {"rated": charged, "stripe": charged}
    return RunReport(totals, 0, 0, (), (), (), 5, "USD", {})


def test_an_hour_of_real_traffic_fits_into_80_columns() -> None:
    text = shown(a_report())
    assert text.count("34,017,783,418,379") == len(STAGES)
    assert text.count("7.49") == 2
    assert max(map(len, text.splitlines())) <= 80
    assert "every identity closes to zero" in text


def test_what_keeps_a_run_from_closing_is_named() -> None:
    report = replace(
        a_report(),
        held_invoices=("acme: no price for model=m",),
        dead_letters=tuple(f"usage.v1/0/{offset}: malformed, x" for offset in range(12)),
    )
    text = shown(report)
    assert "acme: no price for model=m" in text
    assert "usage.v1/0/9" in text
    assert "and 2 more" in text
    assert "does not add up" in text


def test_tokens_of_a_rare_kind_are_shown_where_one_stage_has_them() -> None:
    report = a_report()
    report.totals["ledger"] = replace(
        LARGE, tokens=LARGE.tokens | {"output_reasoning_tokens": 1_234}
    )
    text = shown(report)
    assert "1,234" in text
    assert "does not add up" in text


def test_the_served_model_has_a_table_of_its_own_with_both_ends() -> None:
    report = a_report()
    unseen = {"output_text_tokens": 37}
    clients = Side(81, {**LARGE.tokens, "output_text_tokens": 4_088_628}, 0, unseen)
    served = ServedReport(
        model="small",
        license="Apache-2.0",
        totals=report.totals,
        clients=replace(clients, events=LARGE.events),
        engine=Side(19_339, LARGE.tokens, 27, {}, LARGE.gpu_ns),
        endings={"answered": 54, "cut": 18},
        disagreements=(),
        seconds={},
    )
    text = shown(replace(report, served=served))
    assert "54 answered, 18 cut" in text
    assert text.count("34,017,783,418,379") == 2 * len(STAGES) + 1
    for figure in ("4,088,628", "37", "19,339", "27"):
        assert figure in text
    assert max(map(len, text.splitlines())) <= 80
    assert "every identity closes to zero" in text


def test_why_no_model_was_served_is_said() -> None:
    text = shown(replace(a_report(), why_no_model="no room on /cache: set THAT to another disk"))
    assert "no room on /cache: set THAT to another disk" in text
    assert "every identity closes to zero" in text
