"""Live spend, budgets, alerts and the holds of admission.

Frozen in time: written out instead of taken from `infra.store.tables`, which moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

TABLES = (
    "budget_alerts",
    "admission_holds",
    "budgets",
    "live_corrections",
    "live_offsets",
    "live_tenant_months",
    "live_windows",
)


def upgrade() -> None:
    """Create the tables; all of it is derived, so no rule keeps a row from being changed."""
    _create_windows()
    _create_live_windows()
    _create_budgets()


def downgrade() -> None:
    """Drop the tables."""
    for table in TABLES:
        op.drop_table(table)


def _create_windows() -> None:
    op.create_table(
        "live_corrections",
        sa.Column("hour_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("hour_ms", name=op.f("pk_live_corrections")),
    )
    op.create_table(
        "live_offsets",
        sa.Column("topic", sa.String(length=128), nullable=False),
        sa.Column("kafka_partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("next_offset", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("topic", "kafka_partition", name=op.f("pk_live_offsets")),
    )
    op.create_table(
        "live_tenant_months",
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("month_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kafka_partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("amount_e9", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant", "month_ms", "kafka_partition", name=op.f("pk_live_tenant_months")
        ),
    )


def _create_live_windows() -> None:
    op.create_table(
        "live_windows",
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("grain", sa.String(length=8), nullable=False),
        sa.Column("start_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("project", sa.String(length=128), nullable=False),
        sa.Column("api_key", sa.String(length=128), nullable=False),
        sa.Column("kafka_partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("input_uncached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("input_cache_read_tokens", sa.BigInteger(), nullable=False),
        sa.Column("input_cache_write_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_text_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("gpu_ns", sa.BigInteger(), nullable=False),
        sa.Column("amount_e9", sa.BigInteger(), nullable=False),
        sa.Column("unpriced_requests", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("grain IN ('minute', 'hour')", name=op.f("ck_live_windows_grain")),
        sa.PrimaryKeyConstraint(
            "tenant",
            "grain",
            "start_ms",
            "project",
            "api_key",
            "kafka_partition",
            name=op.f("pk_live_windows"),
        ),
    )
    op.create_index("ix_live_windows_grain", "live_windows", ["grain", "start_ms"], unique=False)


def _create_budgets() -> None:
    op.create_table(
        "admission_holds",
        sa.Column("request", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("hour_ms", sa.BigInteger(), nullable=False),
        sa.Column("month_ms", sa.BigInteger(), nullable=False),
        sa.Column("amount_e9", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("request", name=op.f("pk_admission_holds")),
    )
    op.create_index(
        op.f("ix_admission_holds_hour_ms"), "admission_holds", ["hour_ms"], unique=False
    )
    op.create_index(op.f("ix_admission_holds_tenant"), "admission_holds", ["tenant"], unique=False)
    op.create_table(
        "budget_alerts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("raised_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'given_up', 'unsent')",
            name=op.f("ck_budget_alerts_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budget_alerts")),
    )
    op.create_index(op.f("ix_budget_alerts_state"), "budget_alerts", ["state"], unique=False)
    op.create_table(
        "budgets",
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("limit_e9", sa.BigInteger(), nullable=False),
        sa.Column("spent_before_e9", sa.BigInteger(), nullable=False),
        sa.Column("thresholds", sa.Text(), nullable=False),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.Column("set_by", sa.String(length=128), nullable=False),
        sa.Column("set_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('monthly', 'prepaid')", name=op.f("ck_budgets_kind")),
        sa.CheckConstraint("limit_e9 >= 0", name=op.f("ck_budgets_limit_e9")),
        sa.PrimaryKeyConstraint("tenant", "kind", name=op.f("pk_budgets")),
    )
