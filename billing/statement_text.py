"""A statement as plain text, for terminals and mails."""

from collections.abc import Sequence

from billing.statement_view import PartyView, StatementView

NARROWEST = 72
Row = Sequence[str]


def render_text(view: StatementView) -> str:
    """The statement in lines of text that end in a newline."""
    line_table = _table(
        ("#", "Product", "Meter", "Quantity", "Unit price", "Per", f"Amount {view.currency}"),
        [
            (
                str(line.no),
                line.product,
                line.meter,
                line.quantity,
                line.unit_price,
                line.per,
                line.amount,
            )
            for line in view.lines
        ]
        + [(str(one.no), one.text, "", "", "", "", one.amount) for one in view.carried],
        left=3,
        last=("", "Total", "", "", "", "", view.total),
    )
    width = max(NARROWEST, *(len(row) for row in line_table))
    parts = [
        _across(f"USAGE STATEMENT {view.number}", view.state, width),
        "=" * width,
        *_party("From", view.supplier),
        *_party("For", view.customer),
        f"Period   {view.period_words} (UTC)",
        *([f"On hold  {view.hold_reason}"] if view.hold_reason else []),
        "",
        *line_table,
        "",
        *_corrections(view),
        *_unbilled(view),
        *_days(view),
        *_proof(view),
    ]
    return "\n".join(part.rstrip() for part in parts) + "\n"


def _party(title: str, party: PartyView) -> list[str]:
    return [f"{title:<9}{party.name}", *(f"{'':<9}{detail}" for detail in party.details)]


def _corrections(view: StatementView) -> list[str]:
    if not view.corrections:
        return []
    return [
        "Corrected since this invoice was issued",
        *_table(
            ("Reference", "No.", "What differs", "Settled", f"Amount {view.currency}"),
            [
                (one.reference, one.revision, one.text, one.settled, one.amount)
                for one in view.corrections
            ],
            left=4,
            last=("", "", "This period with its corrections", "", view.corrected_total),
        ),
        "",
    ]


def _unbilled(view: StatementView) -> list[str]:
    if not view.unbilled:
        return ["Every request was billed.", ""]
    return [
        f"Not billed: {view.unbilled_requests} requests that failed, were stopped or refused",
        *_table(
            ("Product", "Meter", "Quantity"),
            [(one.product, one.meter, one.quantity) for one in view.unbilled],
            left=2,
        ),
        "",
    ]


def _days(view: StatementView) -> list[str]:
    total = view.all_days
    return [
        "Usage by day, billed or not (UTC)",
        *_table(
            ("Day", "Requests", "Input tokens", "Output tokens", "GPU-seconds"),
            [
                (day.day, day.requests, day.input_tokens, day.output_tokens, day.gpu_seconds)
                for day in view.days
            ],
            left=1,
            last=(
                total.day,
                total.requests,
                total.input_tokens,
                total.output_tokens,
                total.gpu_seconds,
            ),
        ),
        "",
    ]


def _proof(view: StatementView) -> list[str]:
    return [
        "Proof",
        f"Invoice     {view.invoice_id}",
        f"Price book  {view.price_book}  {view.price_book_sha256}",
        f"Rated by    {view.rating_version}",
        f"Events root {view.events_root}",
        *(f"Log read    {name} up to offset {offset}" for name, offset in view.offsets),
        *(f"Declared lost: {loss}" for loss in view.losses),
        *(f"Run         {run.hour[:16]}Z  {run.run_id[:12]}  {run.digest}" for run in view.runs),
    ]


def _across(left: str, right: str, width: int) -> str:
    return f"{left}{right:>{max(width - len(left), len(right) + 2)}}"


def _table(head: Row, body: Sequence[Row], *, left: int, last: Row | None = None) -> list[str]:
    """Columns as wide as their widest cell; the first `left` ones aligned left, others right."""
    rows = [head, *body, *([last] if last else [])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    texts = [
        "  ".join(
            f"{cell:<{width}}" if column < left else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "-" * len(texts[0])
    if last:
        return [texts[0], rule, *texts[1:-1], rule, texts[-1]]
    return [texts[0], rule, *texts[1:]]
