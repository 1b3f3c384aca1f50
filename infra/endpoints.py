"""Finds the servers: from settings where a URL is given, else from the running local stack."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.settings import InfraSettings
from schemas.errors import ServerError

STACK_FILE = "stack.json"
STRIPE_TEST_KEY = "sk_test_rentroll"
"""The key of the local Stripe stand-in; it opens nothing else."""


class Endpoints(BaseModel):
    """One address per server, ready for its client."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kafka_bootstrap: str
    clickhouse_url: str
    clickhouse_database: str
    store_url: str
    stripe_api_key: str
    stripe_api_base: str | None


def resolve(settings: InfraSettings) -> Endpoints:
    """Addresses of all servers.

    Raises:
        ServerError: If a URL is not given and no local stack runs in `settings.home`.
    """
    stack = read_stack_file(settings.home / STACK_FILE)
    found = {
        "kafka_bootstrap": settings.kafka_bootstrap or stack.get("kafka_bootstrap", ""),
        "clickhouse_url": settings.clickhouse_url or stack.get("clickhouse_url", ""),
        "store_url": settings.store_url or stack.get("store_url", ""),
    }
    missing = sorted(name for name, value in found.items() if not value)
    if missing:
        variables = ", ".join(f"RENTROLL_{name.upper()}" for name in missing)
        raise ServerError(
            f"no local stack runs in {settings.home}: start one with `rentroll up`, or set"
            f" {variables}",
        )
    if settings.stripe_api_key is not None:
        stripe_key, stripe_base = (
            settings.stripe_api_key.get_secret_value(),
            settings.stripe_api_base,
        )
    else:
        stripe_key = STRIPE_TEST_KEY
        stripe_base = settings.stripe_api_base or stack.get("stripe_api_base")
        if stripe_base is None:
            raise ServerError(
                "no Stripe: set RENTROLL_STRIPE_API_KEY, or start the local stack"
                " with `rentroll up`",
            )
    return Endpoints(
        kafka_bootstrap=found["kafka_bootstrap"],
        clickhouse_url=found["clickhouse_url"],
        store_url=found["store_url"],
        clickhouse_database=settings.clickhouse_database,
        stripe_api_key=stripe_key,
        stripe_api_base=stripe_base,
    )


def read_stack_file(path: Path) -> dict[str, str]:
    """The addresses that a running stack wrote; empty where there is none.

    Raises:
        ServerError: If the file is there but is not what a stack writes.
    """
    try:
        content = json.loads(path.read_text())
        return {str(name): str(value) for name, value in content["endpoints"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServerError(f"{path} is damaged ({error}); `rentroll down` clears it") from error
