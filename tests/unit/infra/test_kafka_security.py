"""Settings of Kafka's security: what may not be, what each library gets, what each role needs."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from infra.kafka.rights import Right, acl_lines, missing, playable, roles
from infra.kafka.security import (
    PLAINTEXT,
    KafkaSecurity,
    aiokafka_options,
    kafka_python_options,
    kafka_security,
)
from infra.settings import InfraSettings
from schemas.errors import SettingsError
from streams.broker_access import as_aiokafka, faust_credentials
from tests.support.certificates import Authority

SECRET = "a-planted-password"
GIVEN: dict[str, Any] = {
    "kafka_bootstrap": "broker:9093",
    "kafka_security_protocol": "SASL_SSL",
    "kafka_user": "worker",
    "kafka_password": SECRET,
}


def security(**changes: Any) -> KafkaSecurity:
    return kafka_security(InfraSettings.model_validate(GIVEN | changes))


def test_without_settings_clients_get_nothing_beside_their_address() -> None:
    assert kafka_security(InfraSettings.model_validate({})) == PLAINTEXT
    assert kafka_python_options(PLAINTEXT) == aiokafka_options(PLAINTEXT) == {}
    assert faust_credentials(PLAINTEXT) is None


def test_each_library_gets_user_password_mechanism_and_a_context_that_checks() -> None:
    known = security(kafka_sasl_mechanism="SCRAM-SHA-256")
    by_faust = as_aiokafka(faust_credentials(known))
    for options in (kafka_python_options(known), aiokafka_options(known), by_faust):
        context = options.pop("ssl_context")
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert options == {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-256",
            "sasl_plain_username": "worker",
            "sasl_plain_password": SECRET,
        }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kafka_password": None}, "needs RENTROLL_KAFKA_USER and RENTROLL_KAFKA_PASSWORD"),
        ({"kafka_user": ""}, "needs RENTROLL_KAFKA_USER"),
        ({"kafka_bootstrap": None}, "no RENTROLL_KAFKA_BOOTSTRAP"),
        ({"kafka_security_protocol": "SSL"}, "is it to be SASL_SSL"),
        ({"kafka_security_protocol": "PLAINTEXT"}, "RENTROLL_KAFKA_PASSWORD is set"),
        (
            {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_mechanism": "PLAIN"},
            "in the clear",
        ),
        ({"kafka_certificate_file": "c.pem"}, "belong together"),
        (
            {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_ca_file": "ca.pem"},
            "uses no certificates",
        ),
    ],
)
def test_settings_that_contradict_one_another_are_refused_by_name(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words) as refused:
        security(**changes)
    assert SECRET not in str(refused.value)


def test_a_file_that_is_missing_or_no_certificate_is_named(tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing")
    for path, words in ((tmp_path / "none.pem", "No such file"), (nonsense, "not a PEM file")):
        with pytest.raises(SettingsError, match=f"RENTROLL_KAFKA_CA_FILE=.*{words}"):
            security(kafka_ca_file=path).ssl_context()
    issued = Authority(tmp_path).create().issue("worker", "127.0.0.1")
    changes = {"kafka_certificate_file": issued.certificate, "kafka_key_file": nonsense}
    with pytest.raises(SettingsError, match="RENTROLL_KAFKA_KEY_FILE"):
        security(**changes).ssl_context()
    good = changes | {"kafka_key_file": issued.key}
    assert security(**good).ssl_context() is not None


def test_no_text_of_settings_or_security_shows_a_password() -> None:
    settings = InfraSettings.model_validate(GIVEN | {"kafka_key_password": SECRET})
    known = security()
    shown = [repr(settings), str(settings), repr(known), str(known), repr(faust_credentials(known))]
    assert not [text for text in shown if SECRET in text]


def test_each_role_has_no_more_than_it_needs() -> None:
    operations = {
        role.name: {(right.name, one) for right in role.rights for one in right.operations}
        for role in roles("group-1", "archive-1", "live-1")
    }
    assert operations["close"] == set()
    assert {one for _, one in operations["sidecar"]} == {"Write"}
    assert ("dlq.v1", "Write") not in operations["sidecar"]
    assert [name for name, one in operations["worker"] if one == "Write"] == ["dlq.v1"]
    assert ("group-1", "Read") in operations["worker"]
    assert {one for _, one in operations["archiver"]} == {"Read", "DescribeConfigs"}
    assert ("archive-1", "Read") in operations["archiver"]
    creators = {name for name, granted in operations.items() if "Create" in {o for _, o in granted}}
    assert creators == {"admin"}


def test_acl_lines_grant_a_role_to_a_principal() -> None:
    known = {role.name: role for role in roles("group-1", "archive-1", "live-1")}
    lines = list(acl_lines(known["archiver"], "User:a", "--bootstrap-server b:1"))
    assert lines[0] == (
        "kafka-acls --bootstrap-server b:1 --add --allow-principal User:a"
        " --operation Read --operation DescribeConfigs --topic usage.v1"
    )
    assert lines[-1].endswith("--operation Read --group archive-1")


def test_what_is_missing_is_named_by_operation_and_resource() -> None:
    needs = (
        Right("topic", "usage.v1", ("Read", "DescribeConfigs")),
        Right("group", "g", ("Read",)),
    )
    granted = {("topic", "usage.v1"): frozenset({"read", "describe"})}
    assert missing(needs, granted) == ["DescribeConfigs on topic usage.v1", "Read on group g"]
    everything: dict[tuple[str, str], frozenset[str]] = {
        (right.kind, right.name): frozenset(
            {"read", "write", "create", "describe", "describe_configs"}
        )
        for role in roles("g", "a", "l")
        for right in role.rights
    }
    assert playable(roles("g", "a", "l"), everything) == [
        "admin",
        "sidecar",
        "worker",
        "archiver",
        "live",
        "redriver",
    ]
    assert playable(roles("g", "a", "l"), {}) == []
