"""The pure parts of the stack: which means, which ports, what a log line or an address says."""

import threading
import time
from pathlib import Path

import pytest
import yaml

from infra.addresses import host_and_port, without_secret
from infra.kafka.jars import parse_java_version
from infra.kafka.local import LocalKafka
from infra.settings import InfraSettings
from infra.stack import compose
from infra.stack.compose import choose_means
from infra.stack.logs import follow, log_files, recent
from infra.stack.members import Plan, members, port_names
from infra.stack.state import Means
from schemas.errors import ServerError, ServerStartError

PORTS = {"kafka": 1, "kafka_controller": 2, "clickhouse": 3, "store": 4, "stripe": 5}


def no_engine() -> bool:
    return False


def an_engine() -> bool:
    return True


def settings(**given: object) -> InfraSettings:
    return InfraSettings.model_validate({"home": Path("/nowhere/.rentroll"), **given})


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("bash: java: command not found", 0),
    ],
)
def test_java_says_its_version(text: str, version: int) -> None:
    assert parse_java_version(text) == version


@pytest.mark.parametrize(
    ("wanted", "kept", "engine", "means"),
    [
        (None, None, True, "compose"),
        (None, None, False, "process"),
        (False, None, True, "process"),
        (False, "compose", True, "process"),
        (True, "process", True, "compose"),
        (None, "process", True, "process"),
        (None, "compose", True, "compose"),
    ],
)
def test_stack_stays_with_its_means_unless_told_otherwise(
    wanted: bool | None, kept: Means | None, engine: bool, means: Means
) -> None:
    answers = an_engine if engine else no_engine
    assert choose_means(wanted=wanted, kept=kept, engine_answers=answers) == means


def test_containers_that_are_demanded_need_an_engine() -> None:
    with pytest.raises(ServerStartError, match="RENTROLL_COMPOSE is true"):
        choose_means(wanted=True, kept=None, engine_answers=no_engine)


def test_stack_with_data_in_containers_does_not_start_empty_beside_it() -> None:
    with pytest.raises(ServerStartError, match="data of this stack is in containers"):
        choose_means(wanted=None, kept="compose", engine_answers=no_engine)


def test_given_server_needs_no_port_of_ours() -> None:
    given = settings(
        kafka_bootstrap="k:9092", clickhouse_url="http://c:8123", store_url="sqlite://"
    )
    assert port_names(given, "process") == {"stripe": ("stripe",)}


def test_every_member_that_is_not_given_is_provided_as_the_means_say() -> None:
    by_process = {m.name: m.provided for m in members(Plan(settings(), "process", PORTS))}
    assert by_process == {
        "kafka": "process",
        "clickhouse": "process",
        "store": "file",
        "stripe": "process",
    }
    by_compose = {m.name: m.provided for m in members(Plan(settings(), "compose", PORTS))}
    assert by_compose == {
        "kafka": "compose",
        "clickhouse": "compose",
        "store": "compose",
        "stripe": "process",
    }


def test_given_servers_are_shown_without_their_passwords() -> None:
    given = settings(
        clickhouse_url="http://ann:geheim@c:8123/ledger",
        store_url="postgresql+psycopg://ann:geheim@p/billing",
        stripe_api_key="sk_test_geheim",
    )
    for member in members(Plan(given, "process", PORTS)):
        assert "geheim" not in member.address
        assert member.provided in {"url", "process"}


def test_settings_reach_the_keeper_through_its_environment() -> None:
    given = settings(stripe_api_key="sk_test_1", compose=False, kafka_heap_mb=300)
    environment = given.as_environment()
    assert environment["RENTROLL_STRIPE_API_KEY"] == "sk_test_1"
    assert environment["RENTROLL_COMPOSE"] == "False"
    assert environment["RENTROLL_KAFKA_HEAP_MB"] == "300"
    assert "RENTROLL_STORE_URL" not in environment


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8123", "http://127.0.0.1:8123"),
        ("http://ann:geheim@c:8123/x?y=1", "http://ann:***@c:8123/x?y=1"),
        ("http://ann:with@sign@c:8123", "http://ann:***@c:8123"),
        ("k1:9092,k2:9092", "k1:9092,k2:9092"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
    ],
)
def test_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_secret(url) == shown


def test_scheme_gives_the_port_that_a_url_leaves_out() -> None:
    assert host_and_port("postgresql+psycopg://p/billing") == ("p", 5432)
    assert host_and_port("https://api.stripe.com") == ("api.stripe.com", 443)
    with pytest.raises(ValueError, match="no host and port in gopher://x"):
        host_and_port("gopher://x")


def test_compose_file_pins_images_and_publishes_on_loopback_only() -> None:
    file = yaml.safe_load(compose.FILE.read_text())
    assert set(file["services"]) == set(compose.SERVICES)
    for service in file["services"].values():
        _, _, tag = service["image"].partition(":")
        assert tag not in {"", "latest"}
        assert all(port.startswith("127.0.0.1:${RENTROLL_PORT_") for port in service["ports"])
        assert all(volume.split(":")[0] in file["volumes"] for volume in service["volumes"])


def test_every_variable_of_the_compose_file_is_set() -> None:
    command = compose.bring_up(Path("/nowhere"), PORTS, 384, ["kafka"])
    words = compose.FILE.read_text().split("${")[1:]
    asked = {word.partition(":")[0] for word in words}
    assert asked
    assert command.environment is not None
    assert asked <= set(command.environment)


def test_compose_file_and_local_broker_run_the_same_single_node() -> None:
    """A setting that one has and the other lacks shows first on somebody else's machine."""
    local = LocalKafka(Path("/nowhere"), 1, 2).properties()
    service = yaml.safe_load(compose.FILE.read_text())["services"]["kafka"]["environment"]
    for line in local.splitlines():
        name, _, value = line.partition("=")
        if name.endswith((".replication.factor", ".isr", ".delay.ms", ".topics.enable")):
            assert service[f"KAFKA_{name.replace('.', '_').upper()}"] == value


def test_two_folders_are_two_compose_projects() -> None:
    assert compose.project(Path("/a/.rentroll")) != compose.project(Path("/b/.rentroll"))


def test_broker_of_another_folder_has_another_cluster_id() -> None:
    assert LocalKafka(Path("/a"), 1, 2).cluster_id != LocalKafka(Path("/b"), 1, 2).cluster_id
    assert LocalKafka(Path("/a"), 1, 2).cluster_id == LocalKafka(Path("/a"), 3, 4).cluster_id


def test_logs_follow_a_file_through_its_replacement(tmp_path: Path) -> None:
    log = tmp_path / "kafka" / "printed.log"
    log.parent.mkdir()
    log.write_text("old\n")
    home = settings(home=tmp_path)
    assert [line.text for line in recent(home, "kafka", 5)] == ["old"]
    lines = follow(home, "kafka")

    def writer() -> None:
        time.sleep(0.2)
        with log.open("a") as file:
            file.write("last of the old run\n")
        log.replace(log.with_suffix(".previous"))
        log.write_text("first of the new run\n")

    thread = threading.Thread(target=writer)
    thread.start()
    assert [next(lines).text, next(lines).text] == ["last of the old run", "first of the new run"]
    thread.join()
    lines.close()


def test_unknown_member_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ServerError, match=r"no member 'mongo'.*keeper, kafka"):
        log_files(settings(), "mongo")
