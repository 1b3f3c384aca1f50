"""A statement as one HTML page: loads nothing, fit for printing and for dark screens."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from billing.statement_view import StatementView

_PAGES = Environment(
    loader=PackageLoader("billing", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_html(view: StatementView) -> str:
    """The page; every text in it is escaped."""
    return _PAGES.get_template("statement.html").render(view=view)
