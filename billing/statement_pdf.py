"""A statement as PDF, typeset by typst with its built-in fonts; same statement, same bytes."""

import json
from dataclasses import asdict
from importlib.resources import files
from typing import Literal

import typst

from billing.statement_view import StatementView
from schemas.periods import parse_period

_TEMPLATE = files("billing") / "templates" / "statement.typ"
# Only what typst carries within: a font that happens to be installed would change the page.
_FONTS = typst.Fonts(include_system_fonts=False, include_embedded_fonts=True)


def render_pdf(view: StatementView) -> bytes:
    """The statement as a PDF/A-2b file."""
    return _render(view, "pdf")[0]


def render_pages(view: StatementView) -> list[bytes]:
    """The same pages as PNG pictures, to look at."""
    return _render(view, "png")


def _render(view: StatementView, form: Literal["pdf", "png"]) -> list[bytes]:
    """Set the view.

    It goes in as JSON and comes out as strings: typst sets a string as text, whatever markup it
    holds, so nothing needs escaping.
    """
    compiler = typst.Compiler(
        _TEMPLATE.read_bytes(),
        font_paths=_FONTS,
        sys_inputs={"view": json.dumps(asdict(view), default=_not_shown, ensure_ascii=False)},
    )
    made = compiler.compile(
        format=form,
        pdf_standards="a-2b" if form == "pdf" else [],
        # Dated by its period, for a statement that is set twice must not differ.
        timestamp=int(parse_period(view.period).end.timestamp()),
    )
    return made if isinstance(made, list) else [made or b""]


def _not_shown(_contract: object) -> None:
    """The rated line or day that a row was worded from: typst has no use for its integers."""
