"""Registrations of sources are never changed; what revoked them becomes a decision.

Frozen in time: written out instead of taken from `infra.store.tables`, which moves on.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

KIND = "revoke_source_key"
MESSAGE = "sources is append-only"
_SOURCES = sa.table(
    "sources",
    sa.column("source", sa.String),
    sa.column("revoked_at_ms", sa.BigInteger),
)
_DECISIONS = sa.table(
    "decisions",
    sa.column("position", sa.Integer),
    sa.column("kind", sa.String),
    sa.column("subject", sa.Text),
    sa.column("reason", sa.Text),
    sa.column("decided_by", sa.String),
    sa.column("decided_at_ms", sa.BigInteger),
)


def upgrade() -> None:
    """Say why a source was registered, carry revocations over, and let nothing change it."""
    op.add_column("sources", sa.Column("reason", sa.Text(), nullable=True))
    _carry_revocations_over()
    op.drop_column("sources", "revoked_at_ms")
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER sources_{change.lower()}_refused BEFORE {change} ON sources"
                f" BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
            )
    else:
        for change, level in (("UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            name = change.lower().replace(" ", "_")
            op.execute(
                f"CREATE TRIGGER sources_{name}_refused BEFORE {change} ON sources"
                f" FOR EACH {level} EXECUTE FUNCTION refuse_change('{MESSAGE}')"
            )


def downgrade() -> None:
    """Drop the rules; decisions stay, for they are append-only."""
    if op.get_bind().dialect.name == "sqlite":
        for change in ("update", "delete"):
            op.execute(f"DROP TRIGGER sources_{change}_refused")
    else:
        for change in ("update_or_delete", "truncate"):
            op.execute(f"DROP TRIGGER sources_{change}_refused ON sources")
    op.add_column("sources", sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True))
    op.drop_column("sources", "reason")


def _carry_revocations_over() -> None:
    """A revoked source counted for nothing: that is trust through sequence 0."""
    connection = op.get_bind()
    newest = sa.select(sa.func.coalesce(sa.func.max(_DECISIONS.c.position), 0))
    position = int(connection.execute(newest).scalar_one())
    revoked = sa.select(_SOURCES).where(_SOURCES.c.revoked_at_ms.is_not(None))
    for row in connection.execute(revoked.order_by(_SOURCES.c.revoked_at_ms)).all():
        position += 1
        subject = {
            "source": row.source,
            "trusted_through": 0,
            "revoked_at_ms": row.revoked_at_ms,
        }
        connection.execute(
            sa.insert(_DECISIONS).values(
                position=position,
                kind=KIND,
                subject=json.dumps(subject, sort_keys=True, separators=(",", ":")),
                reason="revoked before revocations were decisions",
                decided_by="migration 0003",
                decided_at_ms=row.revoked_at_ms,
            )
        )
