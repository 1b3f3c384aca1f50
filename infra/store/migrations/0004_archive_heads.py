"""Which entries the archive's manifests had.

Frozen in time: written out instead of taken from `infra.store.tables`, which moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

REFUSAL = "archive_heads is append-only"


def upgrade() -> None:
    """Create the table, then the rule that it only grows."""
    op.create_table(
        "archive_heads",
        sa.Column("topic", sa.String(length=249), nullable=False),
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("end_offset", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("recorded_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "partition", "number", name=op.f("pk_archive_heads")),
    )
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER archive_heads_{change.lower()}_refused BEFORE {change}"
                f" ON archive_heads BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END"
            )
        return
    for name, change, level in (
        ("update_or_delete", "UPDATE OR DELETE", "ROW"),
        ("truncate", "TRUNCATE", "STATEMENT"),
    ):
        op.execute(
            f"CREATE TRIGGER archive_heads_{name}_refused BEFORE {change} ON archive_heads"
            f" FOR EACH {level} EXECUTE FUNCTION refuse_change('{REFUSAL}')"
        )


def downgrade() -> None:
    """Drop the table; its rule goes with it."""
    op.drop_table("archive_heads")
