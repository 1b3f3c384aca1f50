"""A broker with TLS, users and ACLs: each role does its work with the least rights, and no more."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaProducer
from pydantic import SecretStr

from inference.publisher import Publisher, outbox_folders
from inference.settings import InferenceSettings
from inference.simulate.run import SAMPLE_TRACE, simulate
from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.kafka.admin import granted, require_role
from infra.kafka.probe import serves, trouble
from infra.kafka.rights import Right, playable
from infra.kafka.security import KafkaSecurity, kafka_python_options
from infra.kafka.topics import ensure_topics
from infra.settings import InfraSettings
from infra.stack.doctor import examine_rights
from infra.stack.members import Plan, member
from infra.store.engine import open_store
from infra.store.migrate import upgrade
from infra.store.sources import register_source
from schemas.clock import FixedClock
from schemas.errors import ServerError
from schemas.periods import parse_hour
from schemas.topics import TOPICS
from schemas.units import NS_PER_MS
from streams.close import close_hours
from streams.log_totals import count_log
from tests.integration.security.conftest import Secured
from tests.support.events import HOUR_MS, OCTOBER_MS, HostScript, Record, one_busy_hour
from tests.support.ingest_process import start_worker
from tests.support.simulated import small_plan

pytestmark = pytest.mark.timeout(300)
DATABASE = "secured_kafka"


@pytest.fixture(scope="module")
def ledger(secured: Secured, clickhouse_url: str) -> Iterator[Client]:
    migrate(clickhouse_url, DATABASE)
    with connect(clickhouse_url, DATABASE) as client:
        yield client
        client.command(f"DROP DATABASE {DATABASE}")


def publish(secured: Secured, folder: Path, who: KafkaSecurity, timeout_s: int = 60) -> int:
    """Publish every outbox below a folder as this user; how many records were acknowledged."""
    settings = InferenceSettings.model_validate({"publish_timeout_s": timeout_s})
    publisher = Publisher(outbox_folders(folder), secured.bootstrap, settings, who)
    try:
        while publisher.step() or not publisher.idle or publisher.unpublished():
            pass
        return publisher.counts.records
    finally:
        publisher.close()


def send(secured: Secured, records: Iterable[Record]) -> None:
    """What somebody with a sidecar's password can put on the topics."""
    producer = KafkaProducer(
        bootstrap_servers=secured.bootstrap, **kafka_python_options(secured.users["sidecar"])
    )
    for one in records:
        producer.send(one.topic, key=one.key, value=one.value)
    producer.flush()
    producer.close()


def ingest(secured: Secured, clickhouse_url: str, folder: Path, role: str) -> tuple[int, str]:
    """Run a worker as the user of a role until nothing is left; its status and what it logged."""
    worker = start_worker(
        kafka=secured.bootstrap,
        clickhouse=clickhouse_url,
        database=DATABASE,
        group="",
        folder=folder,
        until_idle_s=1,
        settings=secured.environment(role),
    )
    try:
        return worker.wait(120), (folder / "worker.log").read_text()
    finally:
        worker.kill()
        worker.wait(10)


def test_each_user_may_play_its_own_role_and_no_other(secured: Secured) -> None:
    wanted = [right for role in secured.roles.values() for right in role.rights]
    plays = {
        name: playable(list(secured.roles.values()), granted(secured.bootstrap, user, wanted))
        for name, user in secured.users.items()
    }
    assert plays == {
        "admin": ["admin", "sidecar"],
        "sidecar": ["sidecar"],
        "worker": ["worker"],
        "archiver": ["archiver"],
        "live": ["live"],
        "redriver": ["sidecar", "redriver"],
        "close": [],
    }


def test_a_host_publishes_and_a_worker_ingests_with_the_least_rights_and_a_forger_is_not_billed(
    secured: Secured, ledger: Client, clickhouse_url: str, tmp_path: Path
) -> None:
    emitted = simulate(small_plan(SAMPLE_TRACE, seed=501), tmp_path / "host")
    assert publish(secured, emitted.folder, secured.users["sidecar"]) == emitted.counts.records
    honest, forger = one_busy_hour("honest", requests=3), one_busy_hour("forger", requests=7)
    send(secured, [*honest.records, *forger.records])

    status, log = ingest(secured, clickhouse_url, tmp_path / "worker", "worker")
    assert status == 0, log
    assert "password-of-worker" not in log

    sources = [one.source for one in emitted.sources]
    assert events_of(ledger, sources) == emitted.counts.requests
    assert events_of(ledger, [forger.source]) == 7
    assert billed_of(ledger, tmp_path, honest) == 3

    with pytest.MonkeyPatch.context() as environment:
        for name, value in secured.environment("worker").items():
            environment.setenv(name, value)
        counted = asyncio.run(count_log(secured.bootstrap, sources))
    assert sum(one.events for one in counted.values()) == emitted.counts.requests


def events_of(ledger: Client, sources: list[str]) -> int:
    found = ledger.query(
        "SELECT count() FROM usage_events FINAL WHERE has({sources:Array(UUID)}, source)",
        parameters={"sources": sources},
    ).result_rows
    return int(found[0][0])


def billed_of(ledger: Client, folder: Path, honest: HostScript) -> int:
    """Requests of the hour as it is published where only one of the hosts is registered."""
    url = f"sqlite:///{folder / 'store.sqlite'}"
    upgrade(url)
    store = open_store(url)
    register_source(
        store,
        source=honest.source,
        host="host-1",
        public_key=honest.key.public_key_hex(),
        registered_by="test",
        now_ms=OCTOBER_MS,
    )
    clock = FixedClock((OCTOBER_MS + 50 * HOUR_MS) * NS_PER_MS)
    close_hours(ledger, store, parse_hour("2026-10-01T00"), clock=clock)
    store.dispose()
    found = ledger.query(
        "SELECT sum(requests) FROM usage_hourly WHERE hour = '2026-10-01 00:00:00'"
    ).result_rows
    return int(found[0][0])


def test_a_user_without_a_right_is_told_which(secured: Secured, tmp_path: Path) -> None:
    nobody = secured.users["close"]
    reads = tuple(Right("topic", topic.name, ("Read",)) for topic in TOPICS)
    partial = secured.broker.add_user("partial", "password-of-partial", reads)
    with pytest.raises(ServerError, match=r"user close may neither see topic usage\.v1"):
        ensure_topics(secured.bootstrap, security=nobody)
    with pytest.raises(ServerError, match=r"user partial may not see the settings"):
        ensure_topics(secured.bootstrap, security=partial)
    lacks = r"user sidecar lacks Read on topic .*Write on topic dlq\.v1, Read on group secured-ing"
    with pytest.raises(ServerError, match=lacks):
        require_role(secured.bootstrap, secured.users["sidecar"], secured.roles["worker"])
    emitted = simulate(small_plan(SAMPLE_TRACE, seed=502), tmp_path)
    with pytest.raises(ServerError, match=r"user worker lacks a right .*rentroll kafka acls"):
        publish(secured, emitted.folder, secured.users["worker"], timeout_s=2)


def test_whoever_is_not_let_in_is_told_what_to_mend(secured: Secured, tmp_path: Path) -> None:
    worker = secured.users["worker"]
    stranger_ca = tmp_path / "other"
    (stranger_ca).mkdir()
    other = replace(secured.broker.authority, folder=stranger_ca).create()
    wrong = {
        "does not let user worker in by SCRAM-SHA-512.*RENTROLL_KAFKA_PASSWORD": replace(
            worker, password=SecretStr("a-wrong-password")
        ),
        # It depends on whether the refusal is read before the broker hangs up.
        "(does not let user worker in by |does not know .*SASL_MECHANISM=)PLAIN": replace(
            worker, mechanism="PLAIN"
        ),
        r"other/ca\.pem does not vouch for its certificate.*RENTROLL_KAFKA_CA_FILE": replace(
            worker, ca_file=other.certificate
        ),
        "PROTOCOL=PLAINTEXT .*is it a port for TLS": KafkaSecurity(),
        "PROTOCOL=SSL .*for users with a password": replace(worker, protocol="SSL"),
    }
    for words, security in wrong.items():
        with pytest.raises(ServerError, match=words) as refused:
            ensure_topics(secured.bootstrap, security=security)
        assert security.password.get_secret_value() not in str(refused.value) or not security.user


def test_a_plain_port_is_not_taken_for_one_with_tls(secured: Secured, kafka_bootstrap: str) -> None:
    found = trouble(kafka_bootstrap, secured.users["worker"])
    assert found is not None
    assert "TLS" in found.text
    assert not serves(kafka_bootstrap, security=secured.users["worker"])


def test_a_client_may_show_a_certificate_in_place_of_a_password(secured: Secured) -> None:
    broker, worker = secured.broker, secured.roles["worker"]
    address = f"127.0.0.1:{broker.certificate_port}"
    without = KafkaSecurity(protocol="SSL", ca_file=broker.authority.certificate)
    found = trouble(address, without)
    assert found is not None
    assert "RENTROLL_KAFKA_CERTIFICATE_FILE" in found.text
    issued = broker.authority.issue("rentroll-worker", "127.0.0.1")
    known = replace(without, certificate_file=issued.certificate, key_file=issued.key)
    assert trouble(address, known) is None
    assert serves(address, security=known)
    broker.grant("User:CN=rentroll-worker", worker.rights)
    require_role(address, known, worker)


def test_doctor_and_the_stack_say_what_is_wrong(secured: Secured) -> None:
    user = secured.users["worker"]
    given = {
        "kafka_bootstrap": secured.bootstrap,
        "kafka_security_protocol": "SASL_SSL",
        "kafka_ca_file": user.ca_file,
        "kafka_user": user.user,
        "kafka_password": user.password,
    }
    known = list(secured.roles.values())
    (good,) = examine_rights(InfraSettings.model_validate(given), known)
    assert (good.ok, good.found) == (True, "user worker may be worker")
    bad = given | {"kafka_password": "a-wrong-password"}
    (refused,) = examine_rights(InfraSettings.model_validate(bad), known)
    assert not refused.ok
    assert "does not let user worker in" in refused.found
    none = given | {"kafka_user": "close", "kafka_password": "password-of-close"}
    (lacking,) = examine_rights(InfraSettings.model_validate(none), known)
    assert not lacking.ok
    assert "none of our roles; what it lacks at least: Write on topic usage.v1" in lacking.found
    ours = InfraSettings.model_validate(given | {"kafka_ca_file": None})
    kafka = member(Plan(ours, "process", {}), "kafka")
    assert not kafka.probe()
    assert "does not vouch for its certificate" in kafka.why_never()
    assert member(Plan(InfraSettings.model_validate(given), "process", {}), "kafka").probe()


def test_a_worker_without_rights_does_not_begin_and_says_what_it_lacks(
    secured: Secured, tmp_path: Path
) -> None:
    environment = os.environ | secured.environment("close")
    environment |= {
        "RENTROLL_HOME": str(tmp_path),
        "RENTROLL_CLICKHOUSE_URL": "http://127.0.0.1:1",
        "RENTROLL_STORE_URL": f"sqlite:///{tmp_path / 'store.sqlite'}",
        "RENTROLL_STRIPE_API_KEY": "sk_test_0123456789",
    }
    command = [sys.executable, "-m", "rentroll", "worker", "--until-idle", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "user close lacks Read on topic usage.v1" in said
    assert "rentroll kafka acls --role worker" in said
