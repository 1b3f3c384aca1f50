"""What each role of ours has to be allowed on the broker, and no more. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.topics import CAPACITY, CONTROL, DEAD_LETTERS, TOPICS, USAGE

Kind = Literal["topic", "group"]
Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs"]
Granted = Mapping[tuple[str, str], frozenset[str]]
"""Per resource (kind, name), the operations that the broker grants, in lower case with `_`."""


@dataclass(frozen=True, slots=True)
class Right:
    """Operations on one resource."""

    kind: Kind
    name: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Role:
    """A process of ours, as the broker should know it; `why` says what it does there."""

    name: str
    why: str
    rights: tuple[Right, ...]


def roles(ingest_group: str, archive_group: str, live_group: str) -> tuple[Role, ...]:
    """Every role with its least rights.

    Args:
        ingest_group: The consumer group of the workers.
        archive_group: That of the archivers.
        live_group: That of live spend.
    """
    everything = [topic.name for topic in TOPICS]
    return (
        Role(
            "admin",
            "creates the topics: `rentroll up`, `rentroll demo`, `rentroll simulate`",
            tuple(
                Right("topic", one, ("Create", "DescribeConfigs", "Write")) for one in everything
            ),
        ),
        Role(
            "sidecar",
            "publishes a host's events",
            tuple(Right("topic", one.name, ("Write",)) for one in (USAGE, CAPACITY, CONTROL)),
        ),
        Role(
            "worker",
            "reads the topics into the ledger, and writes what it refuses to the dead letters",
            (
                *(Right("topic", one, ("Read", "DescribeConfigs")) for one in everything),
                Right("topic", DEAD_LETTERS.name, ("Write",)),
                Right("group", ingest_group, ("Read",)),
            ),
        ),
        Role(
            "archiver",
            "reads the topics into the archive, and replays a range of them",
            (
                *(Right("topic", one, ("Read", "DescribeConfigs")) for one in everything),
                Right("group", archive_group, ("Read",)),
            ),
        ),
        Role(
            "live",
            "sums running usage and spend: `rentroll live`",
            (
                Right("topic", USAGE.name, ("Read",)),
                *(Right("topic", one, ("Describe", "DescribeConfigs")) for one in everything),
                Right("group", live_group, ("Read",)),
            ),
        ),
        Role(
            "redriver",
            "sends dead letters back to their topics: `rentroll dlq redrive`",
            tuple(
                Right("topic", one.name, ("Read", "Write")) for one in (USAGE, CAPACITY, CONTROL)
            ),
        ),
        Role("close", "closes hours from the ledger and the store: it never asks the broker", ()),
    )


def acl_lines(role: Role, principal: str, connection: str) -> Iterator[str]:
    """Commands of Kafka's own `kafka-acls` that grant a role to a principal.

    Args:
        role: What to grant.
        principal: Such as `User:rentroll-worker`.
        connection: The options that every line begins with, such as `--bootstrap-server …`.
    """
    for right in role.rights:
        asked = " ".join(f"--operation {operation}" for operation in right.operations)
        yield (
            f"kafka-acls {connection} --add --allow-principal {principal}"
            f" {asked} --{right.kind} {right.name}"
        )


def missing(rights: Iterable[Right], granted: Granted) -> list[str]:
    """What is not granted, such as `Read on topic usage.v1`."""
    return [
        f"{operation} on {right.kind} {right.name}"
        for right in rights
        for operation in right.operations
        if _as_granted(operation) not in granted.get((right.kind, right.name), frozenset())
    ]


def playable(known: Sequence[Role], granted: Granted) -> list[str]:
    """The roles that lack nothing and need anything."""
    return [role.name for role in known if role.rights and not missing(role.rights, granted)]


def _as_granted(operation: Operation) -> str:
    return {"DescribeConfigs": "describe_configs"}.get(operation, operation.lower())
