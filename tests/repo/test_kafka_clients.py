"""Every Kafka client of the product is let in by the settings: none is made without them."""

import ast
from pathlib import Path

import pytest

from tests.support.source import parse, product_files, show

CLIENTS = {
    *("KafkaAdminClient", "KafkaConsumer", "KafkaProducer"),
    *("AIOKafkaAdminClient", "AIOKafkaConsumer", "AIOKafkaProducer"),
}
LETS_IN = {"kafka_python_options", "aiokafka_options", "as_aiokafka"}
FAUST_APP = "broker_credentials"


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def client_faults(path: Path, tree: ast.AST) -> list[str]:
    ours = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(getattr(base, "id", "") in CLIENTS for base in node.bases)
    }
    faults = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = name_of(call)
        spread = {
            name_of(one.value)
            for one in call.keywords
            if one.arg is None and isinstance(one.value, ast.Call)
        }
        named = {one.arg for one in call.keywords}
        if name in CLIENTS | ours and not spread & LETS_IN:
            faults.append(f"{show(path)}:{call.lineno} {name}: give it **kafka_python_options(…)")
        is_app = name == "App" and "faust" in ast.unparse(call.func)
        if is_app and FAUST_APP not in named:
            faults.append(f"{show(path)}:{call.lineno} faust.App: give it {FAUST_APP}=…")
    return faults


def test_every_kafka_client_is_let_in_by_the_settings() -> None:
    assert [fault for path in product_files() for fault in client_faults(path, parse(path))] == []


@pytest.mark.parametrize(
    "planted",
    [
        "KafkaConsumer('t', bootstrap_servers=b)",
        "aiokafka.AIOKafkaConsumer(bootstrap_servers=b, **others())",
        "faust.App('x', broker=b)",
        "class Mine(KafkaProducer):\n    pass\nMine(bootstrap_servers=b)",
    ],
)
def test_planted_client_without_security_is_found(planted: str) -> None:
    assert client_faults(Path("planted.py"), ast.parse(planted))
    allowed = "KafkaProducer(**kafka_python_options(s), acks='all')"
    assert client_faults(Path("planted.py"), ast.parse(allowed)) == []
