"""Dead letters for people: a table of many, a page about one."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from rentroll.trust_rim import time_text
from streams.dead_letter_book import Letter
from streams.redrive import Redriven

_DETAIL_SHOWN = 80
_BYTES_SHOWN = 2_000


def letters_table(letters: Sequence[Letter]) -> Table:
    """One row per dead letter."""
    table = Table(title="Dead letters", title_justify="left")
    for heading in ("Place", "State", "Reason", "Tenant", "Event time", "Detail"):
        table.add_column(heading, overflow="fold")
    for one in letters:
        table.add_row(
            one.place,
            one.state,
            one.reason,
            Text(one.tenant),
            time_text(one.unix_ms() or 0),
            Text(one.detail[:_DETAIL_SHOWN]),
        )
    return table


def letter_text(
    letter: Letter, value: bytes, copies: Sequence[str], *, arrived: bool, why_not: str
) -> Text:
    """Everything about one dead letter."""
    lines = {
        "place": letter.place,
        "state": letter.state,
        "refused": f"{letter.reason}: {letter.detail}",
        "source": f"{letter.source or 'unreadable'}, sequence {letter.sequence}",
        "event": f"{letter.event_id or 'unreadable'} of {letter.tenant or 'nobody readable'}",
        "sha256": letter.content_sha256,
        "same bytes": ", ".join(copies) or "nowhere else among the dead letters",
        "in the ledger": "yes" if arrived else "no",
        "can go back": f"no, {why_not}" if why_not else "yes, today's decoder accepts it",
    }
    text = Text("".join(f"{name:<14}{said}\n" for name, said in lines.items()))
    shown = value[:_BYTES_SHOWN].decode("utf-8", "backslashreplace")
    more = f"\n… {len(value) - _BYTES_SHOWN:,} more bytes" if len(value) > _BYTES_SHOWN else ""
    return text.append(f"{shown}{more}", style="dim")


def redriven_text(one: Redriven) -> Text:
    """What became of one letter."""
    said = f"{one.letter.place}: {one.outcome}, {one.detail}"
    return Text(said, style="red" if one.outcome == "not sent" else "")
