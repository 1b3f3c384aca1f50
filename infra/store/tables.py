"""Tables of the billing store, for SQLite and PostgreSQL alike.

Amounts are integers in minor units, or decimal text inside canonical JSON; never REAL.
Instants are integers: milliseconds since the epoch, UTC.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    },
)

tenants = Table(
    "tenants",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("name", String(256), nullable=False),
    Column("email", String(256), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("net_days", Integer, nullable=False),
    Column("stripe_customer", String(64), unique=True),
    Column("created_at_ms", BigInteger, nullable=False),
    CheckConstraint("net_days >= 0", name="net_days"),
)

sources = Table(
    "sources",
    metadata,
    Column("source", String(36), primary_key=True),
    Column("host", String(128), nullable=False),
    Column("public_key", String(64), nullable=False),
    Column("registered_by", String(128), nullable=False),
    Column("registered_at_ms", BigInteger, nullable=False),
    Column("reason", Text),
)
"""Append-only: who registered which key, and why. What became of a key is in `decisions`."""

decisions = Table(
    "decisions",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(64), nullable=False),
    Column("subject", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("decided_by", String(128), nullable=False),
    Column("decided_at_ms", BigInteger, nullable=False),
)
"""Append-only: what people decided about events (losses, quarantine, keys, dead letters).

Positions are dense from 1 and given in the order of commits: a database's own sequence would
show position 5 before 4, and whoever had read up to 5 would never see 4.
"""

hours = Table(
    "hours",
    metadata,
    Column("hour_ms", BigInteger, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("checked_at_ms", BigInteger, nullable=False),
    CheckConstraint("state IN ('held', 'published')", name="state"),
)

rollup_runs = Table(
    "rollup_runs",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("hour_ms", BigInteger, nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("offsets", Text, nullable=False),
    Column("rules_version", String(64), nullable=False),
    Column("decisions_position", Integer, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("published_at_ms", BigInteger, nullable=False),
    UniqueConstraint("hour_ms", "position"),
)
"""Header of every published run: dropping ClickHouse loses no proof."""

price_books = Table(
    "price_books",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("body", Text, nullable=False),
    Column("imported_by", String(128), nullable=False),
    Column("imported_at_ms", BigInteger, nullable=False, index=True),
)
"""Immutable: a changed file is another book with another hash, and needs another name."""

periods = Table(
    "periods",
    metadata,
    Column("tenant", String(128), ForeignKey("tenants.tenant"), primary_key=True),
    Column("period", String(32), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("changed_at_ms", BigInteger, nullable=False),
    CheckConstraint("state IN ('open', 'closing', 'rated', 'invoiced')", name="state"),
)

invoices = Table(
    "invoices",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), ForeignKey("tenants.tenant"), nullable=False),
    Column("period", String(32), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("total_minor", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("planned_at_ms", BigInteger, nullable=False),
    Column("hold_reason", Text, nullable=False),
    Column("stripe_customer", String(64)),
    Column("stripe_invoice", String(64), unique=True),
    Column("stripe_status", String(32)),
    Column("number", String(64)),
    Column("hosted_url", Text),
    Column("adopted", Integer, nullable=False),
    Column("lease_owner", String(64)),
    Column("lease_until_ms", BigInteger, nullable=False),
    UniqueConstraint("tenant", "period", "currency", "revision"),
)
"""`body` is the canonical JSON of `schemas.billing.Invoice`, frozen when it was planned."""

corrections = Table(
    "corrections",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(128), ForeignKey("tenants.tenant"), nullable=False),
    Column("period", String(32), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("currency", String(3), nullable=False),
    Column("invoice_id", String(64), ForeignKey("invoices.id"), nullable=False),
    Column("total_minor", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("planned_at_ms", BigInteger, nullable=False),
    UniqueConstraint("tenant", "period", "currency", "revision"),
)
"""Append-only. `body` is the canonical JSON of `schemas.corrections.Correction`."""

correction_carries = Table(
    "correction_carries",
    metadata,
    Column("correction_id", String(64), ForeignKey("corrections.id"), primary_key=True),
    Column("period", String(32), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("carried_at_ms", BigInteger, nullable=False),
    CheckConstraint("amount_minor <> 0", name="amount_minor"),
)
"""Append-only: the period whose invoice carries a correction, also when that is planned anew."""

correction_credits = Table(
    "correction_credits",
    metadata,
    Column("correction_id", String(64), ForeignKey("corrections.id"), primary_key=True),
    Column("invoice_id", String(64), ForeignKey("invoices.id"), primary_key=True),
    Column("amount_minor", BigInteger, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("stripe_credit_note", String(64), unique=True),
    Column("number", String(64)),
    Column("issued_at_ms", BigInteger),
    CheckConstraint("amount_minor > 0", name="amount_minor"),
    CheckConstraint("state IN ('planned', 'issued')", name="state"),
    CheckConstraint("(state = 'issued') = (stripe_credit_note IS NOT NULL)", name="issued"),
)
"""What a correction gives back on each invoice; a row changes once, when it is issued."""

stripe_calls = Table(
    "stripe_calls",
    metadata,
    Column("invoice_id", String(64), primary_key=True),
    Column("step", String(32), primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("idempotency_key", String(64), nullable=False, unique=True),
    Column("params", Text, nullable=False),
    Column("opened_at_ms", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("outcome", String(16)),
    Column("result_id", String(64)),
    Column("request_id", String(64)),
    Column("error", Text),
)
"""Journal of every Stripe write: body and key are committed before the request leaves.

`invoice_id` names the job: an invoice, or `customer:<tenant>`.
"""

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("tenant", String(128), nullable=False, index=True),
    Column("project", String(128), nullable=False),
    Column("label", String(256), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("service_tiers", Text, nullable=False),
    Column("requests_per_minute", Integer),
    Column("created_by", String(128), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    Column("revoked_by", String(128)),
    Column("revoke_reason", Text),
    CheckConstraint("requests_per_minute >= 1", name="requests_per_minute"),
    CheckConstraint("expires_at_ms > created_at_ms", name="expires_at_ms"),
    CheckConstraint("(revoked_at_ms IS NULL) = (revoked_by IS NULL)", name="revoked_by"),
)
"""A row is never deleted, and changes once: when its key is revoked. No secret is in it."""

tenant_access = Table(
    "tenant_access",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("tenant_key", String(64), nullable=False),
    Column("suspended_at_ms", BigInteger),
    Column("suspended_by", String(128)),
    Column("suspend_reason", Text),
    CheckConstraint("(suspended_at_ms IS NULL) = (suspended_by IS NULL)", name="suspended_by"),
)
"""Whether a tenant is served, and the key of its cache salt and of its end users' pseudonyms.

Replace `tenant_key`, and what pseudonyms stood for can no longer be found out.
"""

archive_heads = Table(
    "archive_heads",
    metadata,
    Column("topic", String(249), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("recorded_at_ms", BigInteger, nullable=False),
)
"""Append-only: every entry of the archive's manifests. Who cuts a chain cannot cut this too."""
end_user_labels = Table(
    "end_user_labels",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("pseudonym", String(32), primary_key=True),
    Column("label", String(512), nullable=False),
    Column("noted_at_ms", BigInteger, nullable=False),
)
"""What a pseudonym in events stands for, where it is kept at all. Rows are deleted on request."""
live_windows = Table(
    "live_windows",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("grain", String(8), primary_key=True),
    Column("start_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("project", String(128), primary_key=True),
    Column("api_key", String(128), primary_key=True),
    Column("kafka_partition", Integer, primary_key=True, autoincrement=False),
    Column("requests", BigInteger, nullable=False),
    Column("input_uncached_tokens", BigInteger, nullable=False),
    Column("input_cache_read_tokens", BigInteger, nullable=False),
    Column("input_cache_write_tokens", BigInteger, nullable=False),
    Column("output_text_tokens", BigInteger, nullable=False),
    Column("output_reasoning_tokens", BigInteger, nullable=False),
    Column("gpu_ns", BigInteger, nullable=False),
    Column("amount_e9", BigInteger, nullable=False),
    Column("unpriced_requests", BigInteger, nullable=False),
    Index("ix_live_windows_grain", "grain", "start_ms"),
    CheckConstraint("grain IN ('minute', 'hour')", name="grain"),
)
"""Running usage as partial sums, one per partition of `usage.v1`; whoever reads adds them.

Partition -1 is what hour close corrects. Amounts are 10^-9 of the major unit, estimated.
"""

live_tenant_months = Table(
    "live_tenant_months",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("month_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("kafka_partition", Integer, primary_key=True, autoincrement=False),
    Column("amount_e9", BigInteger, nullable=False),
)
"""The same by tenant and calendar month: the few rows that admission adds up."""

live_offsets = Table(
    "live_offsets",
    metadata,
    Column("topic", String(128), primary_key=True),
    Column("kafka_partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
)
"""How far the log is in the partial sums; moves in their transaction, so nothing counts twice."""

live_corrections = Table(
    "live_corrections",
    metadata,
    Column("hour_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("run_id", String(64), nullable=False),
)
"""Which published run each hour was corrected by."""

budgets = Table(
    "budgets",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("currency", String(3), nullable=False),
    Column("limit_e9", BigInteger, nullable=False),
    Column("spent_before_e9", BigInteger, nullable=False),
    Column("thresholds", Text, nullable=False),
    Column("webhook_url", Text),
    Column("set_by", String(128), nullable=False),
    Column("set_at_ms", BigInteger, nullable=False),
    CheckConstraint("kind IN ('monthly', 'prepaid')", name="kind"),
    CheckConstraint("limit_e9 >= 0", name="limit_e9"),
)
"""What a tenant may spend: per calendar month, or of a credit paid before.

`thresholds` is a JSON list of percent. `spent_before_e9` is what was spent before a credit began.
"""

admission_holds = Table(
    "admission_holds",
    metadata,
    Column("request", String(36), primary_key=True),
    Column("tenant", String(128), nullable=False, index=True),
    Column("hour_ms", BigInteger, nullable=False, index=True),
    Column("month_ms", BigInteger, nullable=False),
    Column("amount_e9", BigInteger, nullable=False),
)
"""Worst-case cost of requests that are under way; a row goes when its request's event has come."""

budget_alerts = Table(
    "budget_alerts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("body", Text, nullable=False),
    Column("webhook_url", Text),
    Column("state", String(16), nullable=False, index=True),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at_ms", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
    Column("raised_at_ms", BigInteger, nullable=False),
    CheckConstraint("state IN ('pending', 'delivered', 'given_up', 'unsent')", name="state"),
)
"""Each threshold that was reached, once; the id is derived from what was reached."""

collections = Table(
    "collections",
    metadata,
    Column("invoice_id", String(64), ForeignKey("invoices.id"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("amount_paid_minor", BigInteger, nullable=False),
    Column("amount_remaining_minor", BigInteger, nullable=False),
    Column("due_at_ms", BigInteger),
    Column("failing_since_ms", BigInteger),
    Column("reminders", Integer, nullable=False),
    Column("suspended_at_ms", BigInteger),
    Column("changed_at_ms", BigInteger, nullable=False),
)
"""An issued invoice as Stripe last showed it, and how far dunning has gone.

`version` moves with every change: who read version 5 writes only where it is still 5, so that an
older look at Stripe never replaces a newer one.
"""

stripe_events = Table(
    "stripe_events",
    metadata,
    Column("id", String(255), primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("stripe_invoice", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("created_s", BigInteger, nullable=False),
    Column("handled_at_ms", BigInteger, nullable=False),
    CheckConstraint("outcome IN ('applied', 'unchanged', 'foreign', 'conflict')", name="outcome"),
)
"""Every webhook that was acted on, once; written in the transaction of what it changed."""
