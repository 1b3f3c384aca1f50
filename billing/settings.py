"""What billing can be told from outside: its only configuration, prefix RENTROLL_BILLING_."""

from typing import Annotated

from pydantic import Field
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
