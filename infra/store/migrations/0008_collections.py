"""What Stripe told us about payments, and how far dunning has gone.

Frozen in time: written out instead of taken from `infra.store.tables`, which moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "collections",
        sa.Column("invoice_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("amount_paid_minor", sa.BigInteger(), nullable=False),
        sa.Column("amount_remaining_minor", sa.BigInteger(), nullable=False),
        sa.Column("due_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("failing_since_ms", sa.BigInteger(), nullable=True),
        sa.Column("reminders", sa.Integer(), nullable=False),
        sa.Column("suspended_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["invoice_id"], ["invoices.id"], name=op.f("fk_collections_invoice_id")
        ),
        sa.PrimaryKeyConstraint("invoice_id", name=op.f("pk_collections")),
    )
    op.create_table(
        "stripe_events",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("stripe_invoice", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("created_s", sa.BigInteger(), nullable=False),
        sa.Column("handled_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('applied', 'unchanged', 'foreign', 'conflict')",
            name=op.f("ck_stripe_events_outcome"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stripe_events")),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("stripe_events")
    op.drop_table("collections")
