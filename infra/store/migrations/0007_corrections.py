"""Corrections of periods that were invoiced, which invoice carries them, and what they give back.

Frozen in time: written out instead of taken from `infra.store.tables`, which moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

APPEND_ONLY = ("corrections", "correction_carries")
CREDITS = "correction_credits"
CHANGED = (
    "OLD.state = 'issued' OR NEW.correction_id <> OLD.correction_id"
    " OR NEW.invoice_id <> OLD.invoice_id OR NEW.amount_minor <> OLD.amount_minor"
)


def upgrade() -> None:
    """Create the tables, then the rules that keep what was recorded."""
    _create_corrections()
    _create_carries()
    _create_credits()
    for table in APPEND_ONLY:
        _refuse(table, ("UPDATE", "DELETE"), f"{table} is append-only")
    _refuse(CREDITS, ("DELETE",), "a planned credit is never deleted")
    _refuse_changes_of_credits()


def downgrade() -> None:
    """Drop the tables; their rules go with them."""
    for table in (CREDITS, "correction_carries", "corrections"):
        op.drop_table(table)


def _create_corrections() -> None:
    op.create_table(
        "corrections",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("period", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("invoice_id", sa.String(length=64), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("planned_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_corrections")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name=op.f("fk_corrections_tenant")),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name=op.f("fk_corrections_invoice_id")
        ),
        sa.UniqueConstraint(
            "tenant",
            "period",
            "currency",
            "revision",
            name=op.f("uq_corrections_tenant_period_currency_revision"),
        ),
    )
    op.create_index(op.f("ix_corrections_period"), "corrections", ["period"])


def _create_carries() -> None:
    op.create_table(
        "correction_carries",
        sa.Column("correction_id", sa.String(length=64), nullable=False),
        sa.Column("period", sa.String(length=32), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("carried_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("correction_id", name=op.f("pk_correction_carries")),
        sa.ForeignKeyConstraint(
            ["correction_id"], ["corrections.id"], name=op.f("fk_correction_carries_correction_id")
        ),
        sa.CheckConstraint("amount_minor <> 0", name=op.f("ck_correction_carries_amount_minor")),
    )


def _create_credits() -> None:
    op.create_table(
        CREDITS,
        sa.Column("correction_id", sa.String(length=64), nullable=False),
        sa.Column("invoice_id", sa.String(length=64), nullable=False),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("stripe_credit_note", sa.String(length=64), nullable=True),
        sa.Column("number", sa.String(length=64), nullable=True),
        sa.Column("issued_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("correction_id", "invoice_id", name=op.f("pk_correction_credits")),
        sa.ForeignKeyConstraint(
            ["correction_id"], ["corrections.id"], name=op.f("fk_correction_credits_correction_id")
        ),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name=op.f("fk_correction_credits_invoice_id")
        ),
        sa.UniqueConstraint(
            "stripe_credit_note", name=op.f("uq_correction_credits_stripe_credit_note")
        ),
        sa.CheckConstraint("amount_minor > 0", name=op.f("ck_correction_credits_amount_minor")),
        sa.CheckConstraint(
            "state IN ('planned', 'issued')", name=op.f("ck_correction_credits_state")
        ),
        sa.CheckConstraint(
            "(state = 'issued') = (stripe_credit_note IS NOT NULL)",
            name=op.f("ck_correction_credits_issued"),
        ),
    )
    op.create_index(op.f("ix_correction_credits_state"), CREDITS, ["state"])


def _refuse(table: str, changes: tuple[str, ...], message: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in changes:
            op.execute(
                f"CREATE TRIGGER {table}_{change.lower()}_refused BEFORE {change} ON {table}"
                f" BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
        return
    for change, level in ((" OR ".join(changes), "ROW"), ("TRUNCATE", "STATEMENT")):
        name = change.lower().replace(" ", "_")
        op.execute(
            f"CREATE TRIGGER {table}_{name}_refused BEFORE {change} ON {table}"
            f" FOR EACH {level} EXECUTE FUNCTION refuse_change('{message}')"
        )


def _refuse_changes_of_credits() -> None:
    message = "a credit changes once, when it is issued"
    head = f"CREATE TRIGGER {CREDITS}_update_refused BEFORE UPDATE ON {CREDITS} FOR EACH ROW WHEN"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"{head} {CHANGED} BEGIN SELECT RAISE(ABORT, '{message}'); END")
    else:
        op.execute(f"{head} ({CHANGED}) EXECUTE FUNCTION refuse_change('{message}')")
