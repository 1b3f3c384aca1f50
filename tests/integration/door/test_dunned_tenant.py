"""Who does not pay meets a closed door, and an open one within a second of paying."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from billing.stripe_gateway import LOCAL, StripeGateway
from inference.doorkeeper import open_door
from inference.key_export import export_keys
from inference.middleware import RentrollMiddleware
from infra.api_keys import KeyTerms
from infra.store.api_keys import CREATION_ENTROPY_BYTES, create_key
from infra.store.engine import open_store
from schemas.clock import SystemClock
from tests.support.asgi_server import asgi_server
from tests.support.door_house import COMPLETIONS, run
from tests.support.doors import door_settings
from tests.support.http_client import Answer, Client
from tests.support.servers.stripe_fake import stand_in
from tests.support.vllm_shaped import VllmShaped
from tests.support.webhook_house import SECRET, Issued, issued

OBEYS_WITHIN_S = 1.0
SLACK_S = 1.5
"""For a busy machine: what is promised is a second after the store has committed."""


@contextmanager
def listener(folder: Path, base: str, keys: Path) -> Iterator[str]:
    """`rentroll stripe listen` as a process of its own; yields where webhooks go."""
    environment = os.environ | {
        "RENTROLL_HOME": str(folder / "home"),
        "RENTROLL_STORE_URL": f"sqlite:///{folder / 'store.db'}",
        "RENTROLL_STRIPE_API_BASE": base,
        "RENTROLL_STRIPE_API_KEY": "sk_test_rentroll",
        "RENTROLL_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "RENTROLL_CLICKHOUSE_URL": "http://127.0.0.1:1",
        "RENTROLL_BILLING_WEBHOOK_SECRET": SECRET,
        "RENTROLL_BILLING_DUNNING_CHECK_S": "1",
        "RENTROLL_BILLING_DUNNING_SUSPEND_AFTER_DAYS": "0",
    }
    command = [sys.executable, "-m", "rentroll", "stripe", "listen", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--keys-file", str(keys)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert "http://" in line, f"the listener did not start: {line}"
        yield line.split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode in (0, -signal.SIGTERM)


async def answered(client: Client, status: int, timeout_s: float) -> tuple[float, Answer]:
    """Ask until the door answers so; how long that took."""
    began = time.monotonic()
    while True:
        answer = await client.post(COMPLETIONS, {"prompt": "a"})
        assert isinstance(answer, Answer)
        took_s = time.monotonic() - began
        if answer.status == status:
            return took_s, answer
        assert took_s < timeout_s, f"still {answer.status} after {took_s} s"
        await asyncio.sleep(0.02)


def pay(base: str, one: Issued) -> None:
    request = urllib.request.Request(
        f"{base}/v1/invoices/{one.stripe_id}/pay", b"", {"Authorization": "Bearer sk_test_rentroll"}
    )
    urllib.request.urlopen(request, timeout=10).close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_door_obeys_dunning_and_payment(tmp_path: Path, migrated_sqlite_file: Path) -> None:
    shutil.copy(migrated_sqlite_file, tmp_path / "store.db")
    settings = door_settings(tmp_path)
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    terms = KeyTerms(
        tenant="acme", project="chat", label="", scopes=("inference",), service_tiers=("standard",)
    )
    entropy = secrets.token_bytes(CREATION_ENTROPY_BYTES)
    _, key = create_key(store, terms, created_by="ada", now_ms=1, entropy=entropy)
    export_keys(store, settings.door_keys_file, SystemClock())

    async def story() -> None:
        with (
            stand_in(tmp_path / "stripe") as stripe,
            listener(tmp_path, stripe.base, settings.door_keys_file) as url,
        ):
            gateway = StripeGateway("sk_test_rentroll", stripe.base, limits=LOCAL)
            stripe.send_webhooks(url, SECRET)
            one = issued(store, gateway, "acme")
            gateway.close()
            door = open_door(settings, SystemClock())
            async with asgi_server(RentrollMiddleware(VllmShaped(), door)) as server:
                client = Client(server.port, f"Bearer {key.text()}")
                await answered(client, 200, 5)
                stripe.fail_payment(one.stripe_id)
                _, refused = await answered(client, 403, 5 + SLACK_S)
                assert refused.headers["content-type"] == "application/problem+json"
                assert refused.json()["type"] == "urn:rentroll:problem:tenant-suspended"
                assert "is not paid" in refused.json()["detail"]
                pay(stripe.base, one)
                took_s, _ = await answered(client, 200, 5 + SLACK_S)
                assert took_s < OBEYS_WITHIN_S + SLACK_S

    run(story)
    store.dispose()
