"""Who a trace's requests belong to and what serves them: the roster, read from a YAML file.

A trace names no tenant, so a seeded draw per row gives it one, in proportion to the weights here.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from inference.simulate.catalogue import CATALOGUE, Hardware
from inference.simulate.lined_yaml import Lined, read_yaml

EXAMPLES = Path(__file__).parent / "examples"
DEFAULT_ASSIGNMENT = EXAMPLES / "assign.yaml"
CACHE_BLOCK_TOKENS = 16
"""Prefix caches hit in whole blocks; 16 tokens is vLLM's default."""
PERMILLE = 1_000
_WEIGHT_MAX = 1_000
_REPLICAS_MAX = 64
ROSTER_FIELDS = ("region", "tenants", "models", "tiers", "prefix_cache")


class Owner(NamedTuple):
    """Who pays for a request."""

    tenant: str
    project: str
    api_key: str


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model, how many replicas serve it, and on what."""

    name: str
    weight: int
    replicas: int
    hardware: Hardware


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """`hit_permille` of the requests find up to `shared_permille` of their prompt cached."""

    hit_permille: int
    shared_permille: int


@dataclass(frozen=True, slots=True)
class Roster:
    """Tenants' keys, models and tiers; each tenant and tier stands as often as it weighs."""

    name: str
    sha256: str
    region: str
    owners: tuple[tuple[Owner, ...], ...]
    models: tuple[ServedModel, ...]
    tiers: tuple[str, ...]
    cache: PrefixCache

    def tenants(self) -> list[str]:
        """Every tenant once, in alphabetical order."""
        return sorted({keys[0].tenant for keys in self.owners})

    def described(self) -> dict[str, object]:
        """What the report says about it."""
        return {
            "file": self.name,
            "sha256": self.sha256,
            "region": self.region,
            "tenants": self.tenants(),
            "models": {model.name: model.replicas for model in self.models},
            "tiers": sorted(set(self.tiers)),
        }


def read_assignment(path: Path) -> Roster:
    """Read an assignment file.

    Raises:
        FleetFileError: For the first thing that is wrong, with file and line.
    """
    root, raw = read_yaml(path)
    return roster_of(root.fields(ROSTER_FIELDS), path.name, raw)


def roster_of(fields: dict[str, Lined], name: str, raw: bytes) -> Roster:
    """The roster in the fields of an assignment or fleet file."""
    cache = fields["prefix_cache"].fields(("hit_permille", "shared_permille"))
    return Roster(
        name=name,
        sha256=hashlib.sha256(raw).hexdigest(),
        region=fields["region"].name(),
        owners=_owners(fields["tenants"]),
        models=_models(fields["models"]),
        tiers=_tiers(fields["tiers"]),
        cache=PrefixCache(
            cache["hit_permille"].integer(0, PERMILLE),
            cache["shared_permille"].integer(0, PERMILLE),
        ),
    )


def _owners(node: Lined) -> tuple[tuple[Owner, ...], ...]:
    """The keys of a tenant share its weight equally."""
    owners: list[tuple[Owner, ...]] = []
    once = _Once()
    for tenant in node.items():
        fields = tenant.fields(("name", "weight", "projects"))
        name = once(fields["name"])
        keyed: list[Owner] = []
        projects = _Once()
        for project in fields["projects"].items():
            parts = project.fields(("name", "api_keys"))
            project_name = projects(parts["name"])
            keyed += [Owner(name, project_name, once(key)) for key in parts["api_keys"].items()]
        owners += [tuple(keyed)] * fields["weight"].integer(1, _WEIGHT_MAX)
    return tuple(owners)


def _models(node: Lined) -> tuple[ServedModel, ...]:
    once = _Once()
    models: list[ServedModel] = []
    for model in node.items():
        fields = model.fields(("name", "weight", "replicas"), ("like",))
        like = fields.get("like", fields["name"])
        if like.name() not in CATALOGUE:
            raise like.wrong(
                f"{like.name()!r} is not in the catalogue ({', '.join(CATALOGUE)});"
                " say `like: ` one of them"
            )
        models.append(
            ServedModel(
                name=once(fields["name"]),
                weight=fields["weight"].integer(1, _WEIGHT_MAX),
                replicas=fields["replicas"].integer(1, _REPLICAS_MAX),
                hardware=CATALOGUE[like.name()],
            )
        )
    return tuple(models)


def _tiers(node: Lined) -> tuple[str, ...]:
    once = _Once()
    tiers: list[str] = []
    for tier in node.items():
        fields = tier.fields(("name", "weight"))
        tiers += [once(fields["name"])] * fields["weight"].integer(1, _WEIGHT_MAX)
    return tuple(tiers)


class _Once:
    """Reads names and refuses one that was there before."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, node: Lined) -> str:
        name = node.name()
        if name in self._seen:
            raise node.wrong(f"{name!r} stands here twice")
        self._seen.add(name)
        return name


def cached_tokens(cache: PrefixCache, context_tokens: int, hit_draw: int, share_draw: int) -> int:
    """How much of a prompt its prefix cache holds: whole blocks, never the whole prompt.

    Args:
        cache: How often and how much.
        context_tokens: The prompt.
        hit_draw: Uniform over a multiple of 1,000.
        share_draw: Uniform over a multiple of 1,000, independent of the other.
    """
    if hit_draw % PERMILLE >= cache.hit_permille or context_tokens <= CACHE_BLOCK_TOKENS:
        return 0
    share_permille = cache.shared_permille * (share_draw % PERMILLE + 1) // PERMILLE
    blocks = context_tokens * share_permille // PERMILLE // CACHE_BLOCK_TOKENS
    # The last token is always computed: sampling needs its output.
    return min(blocks, (context_tokens - 1) // CACHE_BLOCK_TOKENS) * CACHE_BLOCK_TOKENS


Progress = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and how much there is."""
