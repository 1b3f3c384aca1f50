"""API keys and whether a tenant is served.

Frozen in time: written out instead of taken from `infra.store.tables`, which moves on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

FROZEN_COLUMNS = (
    "key_id",
    "secret_hash",
    "tenant",
    "project",
    "label",
    "scopes",
    "service_tiers",
    "requests_per_minute",
    "created_by",
    "created_at_ms",
    "expires_at_ms",
)


def upgrade() -> None:
    """Create the tables, then the rule that a key changes once: when it is revoked."""
    _create_tables()
    if op.get_bind().dialect.name == "sqlite":
        _keep_rules_in_sqlite()
    else:
        _keep_rules_in_postgresql()


def downgrade() -> None:
    """Drop both tables; the rules go with them."""
    op.drop_table("tenant_access")
    op.drop_table("api_keys")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_api_key_change()")


def _create_tables() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(length=32), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("project", sa.String(length=128), nullable=False),
        sa.Column("label", sa.String(length=256), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("service_tiers", sa.Text(), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_by", sa.String(length=128), nullable=True),
        sa.Column("revoke_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "requests_per_minute >= 1", name=op.f("ck_api_keys_requests_per_minute")
        ),
        sa.CheckConstraint("expires_at_ms > created_at_ms", name=op.f("ck_api_keys_expires_at_ms")),
        sa.CheckConstraint(
            "(revoked_at_ms IS NULL) = (revoked_by IS NULL)", name=op.f("ck_api_keys_revoked_by")
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_api_keys_secret_hash")),
    )
    op.create_index(op.f("ix_api_keys_tenant"), "api_keys", ["tenant"], unique=False)
    op.create_table(
        "tenant_access",
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("tenant_key", sa.String(length=64), nullable=False),
        sa.Column("suspended_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("suspended_by", sa.String(length=128), nullable=True),
        sa.Column("suspend_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(suspended_at_ms IS NULL) = (suspended_by IS NULL)",
            name=op.f("ck_tenant_access_suspended_by"),
        ),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tenant_access")),
    )


def _keep_rules_in_sqlite() -> None:
    changed = " OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in FROZEN_COLUMNS)
    op.execute(
        "CREATE TRIGGER api_keys_delete_refused BEFORE DELETE ON api_keys"
        " BEGIN SELECT RAISE(ABORT, 'an API key cannot be deleted'); END"
    )
    op.execute(
        "CREATE TRIGGER api_keys_update_refused BEFORE UPDATE ON api_keys"
        f" WHEN OLD.revoked_at_ms IS NOT NULL OR {changed}"
        " BEGIN SELECT RAISE(ABORT, 'an API key changes once, when it is revoked'); END"
    )


def _keep_rules_in_postgresql() -> None:
    changed = " OR ".join(
        f"NEW.{column} IS DISTINCT FROM OLD.{column}" for column in FROZEN_COLUMNS
    )
    for change, level in (("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        op.execute(
            f"CREATE TRIGGER api_keys_{change.lower()}_refused BEFORE {change} ON api_keys"
            f" FOR EACH {level} EXECUTE FUNCTION refuse_change('an API key cannot be deleted')"
        )
    op.execute(
        f"""
        CREATE FUNCTION refuse_api_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF OLD.revoked_at_ms IS NOT NULL OR {changed} THEN
                RAISE EXCEPTION 'an API key changes once, when it is revoked'
                    USING ERRCODE = 'integrity_constraint_violation';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER api_keys_update_refused BEFORE UPDATE ON api_keys"
        " FOR EACH ROW EXECUTE FUNCTION refuse_api_key_change()"
    )
