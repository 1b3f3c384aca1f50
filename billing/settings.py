"""What billing can be told from outside: its only configuration, prefix RENTROLL_BILLING_."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

AddressLine = Annotated[str, Field(max_length=128)]


class BillingSettings(BaseSettings):
    """Who bills, on which terms, and the bounds of one billing run."""

    model_config = SettingsConfigDict(env_prefix="RENTROLL_BILLING_", frozen=True, extra="ignore")

    supplier_name: str = Field(
        default="Your Company Ltd", max_length=128, description="legal name on every statement"
    )
    supplier_address: tuple[AddressLine, ...] = Field(
        default=("1 Example Street", "Example City"),
        max_length=6,
        description='address on every statement, a JSON list of lines: ["1 Street", "City"]',
    )
    supplier_email: str = Field(
        default="billing@example.invalid", max_length=254, description="where tenants ask"
    )
    supplier_tax_id: str = Field(
        default="", max_length=64, description="VAT or company number, shown if not empty"
    )
    operator: str = Field(
        default="operator", max_length=128, description="who acts, as written beside each import"
    )
    net_days: int = Field(
        default=30, ge=0, le=365, description="days to pay, for a tenant that planning creates"
    )
    new_tenant_email: str = Field(
        default="billing@example.invalid",
        max_length=254,
        description="e-mail of a tenant that planning creates; .invalid is never delivered",
    )
    usage_block_rows: int = Field(
        default=20_000, ge=1, le=1_000_000, description="rows of hourly usage read at a time"
    )
    admission_host: str = Field(
        default="127.0.0.1", min_length=1, description="where `rentroll admission` listens"
    )
    admission_port: int = Field(default=8790, ge=0, le=65_535, description="0: a free one")
    admission_token_file: Path | None = Field(
        default=None, description="what doors must show; unset: nothing, so keep it on loopback"
    )
    admission_timeout_ms: int = Field(
        default=50, ge=1, le=10_000, description="an ask that waited longer is not decided"
    )
    admission_batch_requests: int = Field(
        default=200, ge=1, le=10_000, description="decided together in one transaction, at most"
    )
    admission_prices_check_s: int = Field(
        default=5, ge=1, le=3_600, description="how often it looks for a newer price book"
    )
    webhook_host: str = Field(
        default="127.0.0.1", min_length=1, description="where `rentroll stripe listen` listens"
    )
    webhook_port: int = Field(default=8791, ge=0, le=65_535, description="0: a free one")
    webhook_secret: SecretStr | None = Field(
        default=None, description="whsec_… of the endpoint; two with a comma while one is replaced"
    )
    webhook_tolerance_s: int = Field(
        default=300, ge=1, le=3_600, description="how old, or how far ahead, a signature may be"
    )
    webhook_waiting_requests: int = Field(
        default=200, ge=1, le=10_000, description="webhooks that may wait; more are sent away"
    )
    dunning_check_s: int = Field(
        default=60, ge=1, le=86_400, description="how often `rentroll stripe listen` duns"
    )
    dunning_remind_after_days: int = Field(
        default=3, ge=0, le=365, description="from a failed payment or the due date to a reminder"
    )
    dunning_remind_every_days: int = Field(
        default=7, ge=1, le=365, description="from one reminder to the next"
    )
    dunning_suspend_after_days: int = Field(
        default=21, ge=0, le=3_650, description="from the same moment to the suspension"
    )
