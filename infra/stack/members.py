"""The members of a stack: how each is provided, where it answers, how one asks whether it does."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.addresses import accepts_connections, answers_http, without_secret
from infra.clickhouse.local import LocalClickHouse, answers_ping
from infra.kafka.local import LocalKafka
from infra.kafka.probe import serves, trouble
from infra.kafka.security import kafka_security
from infra.local_server import LocalServer
from infra.ports import LOOPBACK, choose_port, is_free
from infra.settings import InfraSettings
from infra.stack import compose
from infra.stack.state import Means, MemberName, Provided

PRINTED = "printed.log"
STORE_FILE = "billing.db"
STRIPE_API = "https://api.stripe.com"


def nothing_to_set_up() -> None:
    """A member that is complete once it answers."""


def nothing_known() -> str:
    """A member whose silence says nothing."""
    return ""


@dataclass(frozen=True, slots=True)
class Member:
    """One server of the stack.

    `endpoint` is what clients need, under its name in `Endpoints`; None where settings give it.
    `server` is there only for a process of ours. `set_up` runs once, when the probe first holds.
    `why_never` says why a probe that does not hold never will; empty where waiting may help.
    """

    name: MemberName
    provided: Provided
    address: str
    probe: Callable[[], bool]
    endpoint: tuple[str, str] | None = None
    server: LocalServer | None = None
    set_up: Callable[[], None] = nothing_to_set_up
    why_never: Callable[[], str] = nothing_known


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides how members look: the settings, how servers are provided, and the ports."""

    settings: InfraSettings
    means: Means
    ports: Mapping[str, int]

    @property
    def home(self) -> Path:
        """The stack's folder, whatever folder the reader is in."""
        return self.settings.home.resolve()


def port_names(settings: InfraSettings, means: Means) -> dict[MemberName, tuple[str, ...]]:
    """The ports that each member of ours needs, by name."""
    names: dict[MemberName, tuple[str, ...]] = {}
    if settings.kafka_bootstrap is None:
        names["kafka"] = ("kafka",) if means == "compose" else ("kafka", "kafka_controller")
    if settings.clickhouse_url is None:
        names["clickhouse"] = ("clickhouse",)
    if settings.store_url is None and means == "compose":
        names["store"] = ("store",)
    if settings.stripe_api_key is None and settings.stripe_api_base is None:
        names["stripe"] = ("stripe",)
    return names


def keep_or_choose(home: Path, kept: Mapping[str, int], names: tuple[str, ...]) -> dict[str, int]:
    """A port for each name: the kept one where it is free, so that clients survive a restart.

    Raises:
        PortBusyError: If no port at all is free.
    """
    ports = dict(kept)
    for name in names:
        if name not in kept or not is_free(kept[name]):
            others = {port for other, port in ports.items() if other != name}
            ports[name] = choose_port(f"{home.resolve()}/{name}", others)
    return ports


def members(plan: Plan) -> tuple[Member, ...]:
    """All members, in the order in which a person reads them."""
    return tuple(member(plan, name) for name in ("kafka", "clickhouse", "store", "stripe"))


def member(plan: Plan, name: MemberName) -> Member:
    """One member as the plan has it."""
    return {"kafka": _kafka, "clickhouse": _clickhouse, "store": _store, "stripe": _stripe}[name](
        plan
    )


def _kafka(plan: Plan) -> Member:
    given = plan.settings.kafka_bootstrap
    bootstrap = given or f"{LOOPBACK}:{plan.ports['kafka']}"
    security = kafka_security(plan.settings)

    def why_never() -> str:
        found = trouble(bootstrap, security)
        return found.text if found is not None and found.lasting else ""

    def set_up() -> None:
        from infra.kafka.topics import ensure_topics

        ensure_topics(bootstrap, security=security)

    server = None
    if given is None and plan.means == "process":
        folder = plan.home / "kafka"
        broker = LocalKafka(
            folder,
            plan.ports["kafka"],
            plan.ports["kafka_controller"],
            plan.settings.kafka_heap_mb,
        )
        server = broker.server(folder / PRINTED)
    return Member(
        name="kafka",
        provided="url" if given else plan.means,
        address=bootstrap,
        probe=server.probe if server else lambda: serves(bootstrap, security=security),
        endpoint=None if given else ("kafka_bootstrap", bootstrap),
        server=server,
        set_up=set_up,
        why_never=why_never if given and security.over_tls else nothing_known,
    )


def _clickhouse(plan: Plan) -> Member:
    settings = plan.settings
    given = settings.clickhouse_url
    url = given or f"http://{LOOPBACK}:{plan.ports['clickhouse']}"

    def set_up() -> None:
        from infra.clickhouse.migrate import migrate

        migrate(url, settings.clickhouse_database, cluster=settings.clickhouse_cluster)

    server = None
    if given is None and plan.means == "process":
        folder = plan.home / "clickhouse"
        server = LocalClickHouse(folder, plan.ports["clickhouse"]).server(folder / PRINTED)
    return Member(
        name="clickhouse",
        provided="url" if given else plan.means,
        address=without_secret(url),
        probe=lambda: answers_ping(url),
        endpoint=None if given else ("clickhouse_url", url),
        server=server,
        set_up=set_up,
    )


def _store(plan: Plan) -> Member:
    given = plan.settings.store_url
    file = plan.home / "store" / STORE_FILE
    provided: Provided = "url" if given else "compose" if plan.means == "compose" else "file"
    if given is not None:
        url = given
    else:
        in_compose = plan.means == "compose"
        url = compose.store_url(plan.ports["store"]) if in_compose else f"sqlite:///{file}"
    is_file = url.startswith("sqlite")

    def set_up() -> None:
        from infra.store.migrate import upgrade

        if provided == "file":
            file.parent.mkdir(parents=True, exist_ok=True)
        upgrade(url)

    return Member(
        name="store",
        provided=provided,
        address=without_secret(url),
        # A file needs nobody to serve it: whether it can be opened shows in `set_up`.
        probe=lambda: is_file or accepts_connections(url),
        endpoint=None if given else ("store_url", url),
        set_up=set_up,
    )


def _stripe(plan: Plan) -> Member:
    settings = plan.settings
    if settings.stripe_api_key is not None or settings.stripe_api_base is not None:
        base = settings.stripe_api_base or STRIPE_API
        return Member("stripe", "url", without_secret(base), lambda: accepts_connections(base))
    base, folder = f"http://{LOOPBACK}:{plan.ports['stripe']}", plan.home / "stripe"
    command = (sys.executable, "-P", "-m", "infra.stripe_fake")
    arguments = ("--port", str(plan.ports["stripe"]), "--data", str(folder))

    def probe() -> bool:
        return answers_http(f"{base}/healthz")

    server = LocalServer("stripe", base, (*command, *arguments), folder / PRINTED, probe)
    return Member("stripe", "process", base, probe, ("stripe_api_base", base), server)
