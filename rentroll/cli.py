"""The `rentroll` command: every stage's commands under one roof."""

from collections.abc import Callable
from importlib import import_module

import typer

app = typer.Typer(
    name="rentroll",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Meter LLM inference, attribute GPU time, rate usage, issue invoices, prove every line.",
)


@app.callback()
def rentroll() -> None:
    """Meter LLM inference, attribute GPU time, rate usage, issue invoices, prove every line."""


COMMAND_MODULES = (
    "rentroll.stack_commands",
    "rentroll.kafka_commands",
    "rentroll.metrics_command",
    "rentroll.migrate_commands",
    "rentroll.key_commands",
    "rentroll.erase_commands",
    "rentroll.serve_commands",
    "rentroll.simulate_commands",
    "rentroll.stream_commands",
    "rentroll.archive_commands",
    "rentroll.close_commands",
    "rentroll.replay_commands",
    "rentroll.completeness_commands",
    "rentroll.retention_commands",
    "rentroll.price_commands",
    "rentroll.quarantine_commands",
    "rentroll.source_commands",
    "rentroll.dlq_commands",
    "rentroll.spend_commands",
    "rentroll.admission_command",
    "rentroll.billing_commands",
    "rentroll.invoice_commands",
    "rentroll.correction_commands",
    "rentroll.stripe_commands",
    "rentroll.proof_commands",
    "rentroll.audit_commands",
    "rentroll.reconcile_command",
    "rentroll.demo_command",
)


def main() -> None:
    """Entry point: register the commands, run one, turn our own errors into one clear line."""
    from rentroll.errors_shown import run_and_explain

    for module in COMMAND_MODULES:
        register: Callable[[typer.Typer], None] = import_module(module).register
        register(app)
    run_and_explain(app)
