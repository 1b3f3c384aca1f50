"""What the reconciliation of a period shows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rentroll.equations import Equation
    from rentroll.reconciling import Reconciliation

SHOWN_MAX = 20


def reconciliation_tables(found: "Reconciliation") -> Iterator[Table]:
    """Of each equation its figures; and, where there are any, its parts with their reasons."""
    for equation in found.equations:
        yield _figures(equation)
        if equation.parts:
            yield _parts(equation)


def verdict_text(found: "Reconciliation") -> Text:
    """Whether everything is explained, and else what is not."""
    text = Text()
    faults = found.faults()
    for fault in faults[:SHOWN_MAX]:
        text.append(f"{fault}\n", style="red")
    if len(faults) > SHOWN_MAX:
        text.append(f"and {len(faults) - SHOWN_MAX} more\n")
    if faults:
        text.append("not reconciled", style="bold red")
        text.append(f": {len(faults)} differences of {found.period} have no reason")
    else:
        parts = sum(len(one.parts) for one in found.equations)
        text.append("reconciled", style="bold green")
        text.append(f": {found.period}, {parts} differences, each with its reason")
    text.append("; Stripe was not asked" if found.stripe is None else "")
    return text


def _figures(equation: "Equation") -> Table:
    table = Table(title=equation.name, title_justify="left")
    table.add_column("")
    for heading in ("left", "right", "with a reason", "without"):
        table.add_column(heading, justify="right")
    columns = (equation.measures, equation.left, equation.right, equation.explained())
    for measure, left, right, explained in zip(*columns, strict=True):
        numbers = (left, right, explained, left - right - explained)
        table.add_row(measure, *(f"{number:,}" for number in numbers))
    return table


def _parts(equation: "Equation") -> Table:
    table = Table(title="of it, with a reason", title_justify="left")
    for heading in ("where", "reason", "first of them"):
        table.add_column(heading, overflow="fold")
    for heading in ("requests", "GPU-ns"):
        table.add_column(heading, justify="right")
    for one in equation.parts[:SHOWN_MAX]:
        named = dict(zip(equation.measures, one.sums, strict=True))
        table.add_row(
            escape(one.key),
            escape(one.reason),
            escape(", ".join(one.names)),
            f"{named['requests']:,}",
            f"{named['gpu_ns']:,}",
        )
    if len(equation.parts) > SHOWN_MAX:
        table.add_row("", f"and {len(equation.parts) - SHOWN_MAX} more", "", "", "")
    return table
