"""Where the servers are; the only configuration of `infra`. Every name has the prefix RENTROLL_."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class InfraSettings(BaseSettings):
    """A server whose URL is given is used as it is; the others come from the local stack."""

    model_config = SettingsConfigDict(env_prefix="RENTROLL_", frozen=True, extra="ignore")

    home: Path = Field(default=Path(".rentroll"), description="folder of the local stack")
    kafka_bootstrap: str | None = Field(default=None, description="host:port[,host:port]")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="what the brokers of RENTROLL_KAFKA_BOOTSTRAP speak"
    )
    kafka_ca_file: Path | None = Field(
        default=None, description="PEM of who vouches for the brokers; unset: this system's own"
    )
    kafka_certificate_file: Path | None = Field(
        default=None, description="PEM of this client, where brokers ask for a certificate"
    )
    kafka_key_file: Path | None = Field(default=None, description="PEM of that certificate's key")
    kafka_key_password: SecretStr | None = Field(
        default=None, description="of the key file, where it has one"
    )
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field(
        default="SCRAM-SHA-512", description="how the password is shown; PLAIN only over TLS"
    )
    kafka_user: str | None = Field(default=None, description="whom the brokers know")
    kafka_password: SecretStr | None = Field(default=None, description="of that user")
    clickhouse_url: str | None = Field(
        default=None, description="http[s]://[user:password@]host:port[/database]"
    )
    store_url: str | None = Field(default=None, description="SQLAlchemy URL of the billing store")
    stripe_api_key: SecretStr | None = Field(default=None, description="sk_live_… or sk_test_…")
    stripe_api_base: str | None = Field(
        default=None, description="base URL of another server that speaks Stripe's API"
    )
    clickhouse_database: str = Field(default="rentroll", description="database of the ledger")
    clickhouse_cluster: str | None = Field(
        default=None,
        description="cluster over which tables are replicated; unset: a single node",
    )
    compose: bool | None = Field(
        default=None, description="force Docker Compose on or off; unset: where an engine answers"
    )
    kafka_heap_mb: int = Field(default=384, ge=256, le=65_536, description="local broker's heap")
    log_format: Literal["json", "text"] | None = Field(
        default=None,
        description="of log lines on standard error; unset: json for workers, text for the others",
    )
    start_timeout_s: int = Field(default=60, ge=1, le=600, description="per server")
    stack_restart_attempts: int = Field(
        default=5, ge=0, le=100, description="restarts of one member within ten minutes"
    )

    def as_environment(self) -> dict[str, str]:
        """This process's environment with these settings in it, for a process that reads them."""
        environment = inherited_environment()
        for name in type(self).model_fields:
            value = getattr(self, name)
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            environment.pop(f"RENTROLL_{name.upper()}", None)
            if value is not None:
                environment[f"RENTROLL_{name.upper()}"] = text
        return environment


def inherited_environment() -> dict[str, str]:
    """The environment of this process: children need its PATH, HOME and proxies."""
    return dict(os.environ)
