"""Turns errors raised on purpose into one clear line and exit status 1."""

import sys

import typer
from rich.console import Console

from infra.logs import redaction
from infra.settings import InfraSettings
from schemas.errors import RentrollError


def run_and_explain(app: typer.Typer) -> None:
    """Run the command line; a `RentrollError` is shown without a traceback, anything else with."""
    try:
        app()
    except RentrollError as error:
        console = Console(stderr=True, highlight=False)
        console.print(f"[bold red]error[/] [dim]{error.code}[/]", end=" ")
        console.print(redaction(InfraSettings()).clean(str(error)), markup=False)
        sys.exit(1)
