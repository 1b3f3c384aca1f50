"""End users' labels, which can be erased.

Frozen in time: written out instead of taken from `infra.store.tables`, which moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "end_user_labels",
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("pseudonym", sa.String(length=32), nullable=False),
        sa.Column("label", sa.String(length=512), nullable=False),
        sa.Column("noted_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "pseudonym", name=op.f("pk_end_user_labels")),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("end_user_labels")
