"""Commands with secrets in their settings, whose servers fail, never show one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)

SECRETS = {
    "kafka": "kafka-planted-1",
    "clickhouse": "clickhouse-planted-2",
    "store": "store-planted-3",
    "stripe": "sk_test_stripeplanted4",
}
ENVIRONMENT = {
    "RENTROLL_KAFKA_BOOTSTRAP": "127.0.0.1:1",
    "RENTROLL_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "RENTROLL_KAFKA_USER": "somebody",
    "RENTROLL_KAFKA_PASSWORD": SECRETS["kafka"],
    "RENTROLL_CLICKHOUSE_URL": f"http://default:{SECRETS['clickhouse']}@127.0.0.1:1",
    "RENTROLL_STORE_URL": f"postgresql+psycopg://billing:{SECRETS['store']}@127.0.0.1:1/billing",
    "RENTROLL_STRIPE_API_KEY": SECRETS["stripe"],
    "RENTROLL_LOG_FORMAT": "json",
}
COMMANDS = {
    "status": ["rentroll", "status"],
    "doctor": ["rentroll", "doctor"],
    "worker": ["rentroll", "worker", "--until-idle", "1"],
    "close": ["rentroll", "close", "--hour", "2026-10-01T00"],
    "kafka-check": ["rentroll", "kafka", "check"],
    "metrics": ["rentroll", "metrics", "--once"],
    "up": ["rentroll", "up"],
    "sidecar": ["inference.run_sidecar"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_that_fails_shows_a_secret(name: str, tmp_path: Path) -> None:
    environment = (
        os.environ
        | ENVIRONMENT
        | {
            "RENTROLL_HOME": str(tmp_path / "home"),
            "RENTROLL_START_TIMEOUT_S": "2",
            # Without a vLLM there: doctor would ask it what it is, for half a minute.
            "RENTROLL_INFERENCE_CACHE_FOLDER": str(tmp_path / "cache"),
            "RENTROLL_INFERENCE_HOST_FOLDER": str(tmp_path / "host"),
            "RENTROLL_INFERENCE_DOOR_KEYS_FILE": str(tmp_path / "keys.json"),
        }
    )
    done = subprocess.run(
        [sys.executable, "-m", *COMMANDS[name]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    said += "".join(path.read_text() for path in (tmp_path).rglob("*.log"))
    said += "".join(path.read_text() for path in (tmp_path).rglob("*.json"))
    assert done.returncode != 0, said
    assert said
    assert [secret for secret in SECRETS.values() if secret in said] == []
