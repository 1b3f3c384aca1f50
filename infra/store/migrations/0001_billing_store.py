"""The billing store's first tables, and the rules that the database itself keeps.

Frozen in time: written out instead of taken from `infra.store.tables`, which moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TABLES = (
    "periods",
    "invoices",
    "stripe_calls",
    "price_books",
    "tenants",
    "rollup_runs",
    "hours",
    "decisions",
    "sources",
)
"""In an order in which they can be dropped."""
APPEND_ONLY = ("decisions", "price_books", "rollup_runs")

FREELY_CHANGED = (
    "OLD.state IN ('planned', 'held') AND OLD.id NOT IN (SELECT invoice_id FROM stripe_calls)"
)
"""Until an invoice has left `planned`, or one call to Stripe was journaled for it.

An invoice that was held while it was planned (usage without a price, say) is planned anew.
"""
FROZEN_COLUMNS = ("id", "tenant", "period", "currency", "revision", "total_minor", "body")


def upgrade() -> None:
    """Create the tables, then the rules."""
    _create_sources_and_runs()
    _create_tenants_and_prices()
    _create_invoices()
    if op.get_bind().dialect.name == "sqlite":
        _keep_rules_in_sqlite()
    else:
        _keep_rules_in_postgresql()


def downgrade() -> None:
    """Drop everything; the rules go with their tables."""
    for table in TABLES:
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        for function in ("refuse_change", "refuse_invoice_change"):
            op.execute(f"DROP FUNCTION {function}()")


def _create_sources_and_runs() -> None:
    op.create_table(
        "sources",
        sa.Column("source", sa.String(length=36), nullable=False),
        sa.Column("host", sa.String(length=128), nullable=False),
        sa.Column("public_key", sa.String(length=64), nullable=False),
        sa.Column("registered_by", sa.String(length=128), nullable=False),
        sa.Column("registered_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_sources")),
    )
    op.create_table(
        "decisions",
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.String(length=128), nullable=False),
        sa.Column("decided_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_decisions")),
    )
    op.create_table(
        "hours",
        sa.Column("hour_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("checked_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('held', 'published')", name=op.f("ck_hours_state")),
        sa.PrimaryKeyConstraint("hour_ms", name=op.f("pk_hours")),
    )
    op.create_table(
        "rollup_runs",
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.Column("hour_ms", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("offsets", sa.Text(), nullable=False),
        sa.Column("rules_version", sa.String(length=64), nullable=False),
        sa.Column("decisions_position", sa.Integer(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("published_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_rollup_runs")),
        sa.UniqueConstraint("hour_ms", "position", name=op.f("uq_rollup_runs_hour_ms_position")),
    )
    op.create_index(op.f("ix_rollup_runs_hour_ms"), "rollup_runs", ["hour_ms"], unique=False)


def _create_tenants_and_prices() -> None:
    op.create_table(
        "tenants",
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("email", sa.String(length=256), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("net_days", sa.Integer(), nullable=False),
        sa.Column("stripe_customer", sa.String(length=64), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("net_days >= 0", name=op.f("ck_tenants_net_days")),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tenants")),
        sa.UniqueConstraint("stripe_customer", name=op.f("uq_tenants_stripe_customer")),
    )
    op.create_table(
        "price_books",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("imported_by", sa.String(length=128), nullable=False),
        sa.Column("imported_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_price_books")),
        sa.UniqueConstraint("name", name=op.f("uq_price_books_name")),
    )
    op.create_index(
        op.f("ix_price_books_imported_at_ms"), "price_books", ["imported_at_ms"], unique=False
    )
    op.create_table(
        "periods",
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("period", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('open', 'closing', 'rated', 'invoiced')", name=op.f("ck_periods_state")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name=op.f("fk_periods_tenant")),
        sa.PrimaryKeyConstraint("tenant", "period", name=op.f("pk_periods")),
    )


def _create_invoices() -> None:
    op.create_table(
        "invoices",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("period", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("planned_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("hold_reason", sa.Text(), nullable=False),
        sa.Column("stripe_customer", sa.String(length=64), nullable=True),
        sa.Column("stripe_invoice", sa.String(length=64), nullable=True),
        sa.Column("stripe_status", sa.String(length=32), nullable=True),
        sa.Column("number", sa.String(length=64), nullable=True),
        sa.Column("hosted_url", sa.Text(), nullable=True),
        sa.Column("adopted", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant"], name=op.f("fk_invoices_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoices")),
        sa.UniqueConstraint("stripe_invoice", name=op.f("uq_invoices_stripe_invoice")),
        sa.UniqueConstraint(
            "tenant",
            "period",
            "currency",
            "revision",
            name=op.f("uq_invoices_tenant_period_currency_revision"),
        ),
    )
    op.create_index(op.f("ix_invoices_state"), "invoices", ["state"], unique=False)
    op.create_table(
        "stripe_calls",
        sa.Column("invoice_id", sa.String(length=64), nullable=False),
        sa.Column("step", sa.String(length=32), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=64), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("opened_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("result_id", sa.String(length=64), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("invoice_id", "step", "generation", name=op.f("pk_stripe_calls")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_stripe_calls_idempotency_key")),
    )


def _keep_rules_in_sqlite() -> None:
    for table in APPEND_ONLY:
        for change in ("UPDATE", "DELETE"):
            _sqlite_trigger(table, change, "", f"{table} is append-only")
    _sqlite_trigger("invoices", "DELETE", "", "an invoice cannot be deleted")
    changed = " OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in FROZEN_COLUMNS)
    _sqlite_trigger(
        "invoices",
        "UPDATE",
        f"WHEN ({changed}) AND NOT ({FREELY_CHANGED})",
        "an invoice beyond planned is frozen",
    )


def _sqlite_trigger(table: str, change: str, condition: str, message: str) -> None:
    op.execute(
        f"CREATE TRIGGER {table}_{change.lower()}_refused BEFORE {change} ON {table} {condition}"
        f" BEGIN SELECT RAISE(ABORT, '{message}'); END"
    )


def _keep_rules_in_postgresql() -> None:
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
        END $$
        """
    )
    for table in APPEND_ONLY:
        _postgresql_refusal(table, "UPDATE OR DELETE", "ROW", f"{table} is append-only")
        _postgresql_refusal(table, "TRUNCATE", "STATEMENT", f"{table} is append-only")
    for change, level in (("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        _postgresql_refusal("invoices", change, level, "an invoice cannot be deleted")
    changed = " OR ".join(
        f"NEW.{column} IS DISTINCT FROM OLD.{column}" for column in FROZEN_COLUMNS
    )
    op.execute(
        f"""
        CREATE FUNCTION refuse_invoice_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF ({changed}) AND NOT ({FREELY_CHANGED}) THEN
                RAISE EXCEPTION 'an invoice beyond planned is frozen'
                    USING ERRCODE = 'integrity_constraint_violation';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER invoices_update_refused BEFORE UPDATE ON invoices"
        " FOR EACH ROW EXECUTE FUNCTION refuse_invoice_change()"
    )


def _postgresql_refusal(table: str, change: str, level: str, message: str) -> None:
    name = f"{table}_{change.lower().replace(' ', '_')}_refused"
    op.execute(
        f"CREATE TRIGGER {name} BEFORE {change} ON {table}"
        f" FOR EACH {level} EXECUTE FUNCTION refuse_change('{message}')"
    )
