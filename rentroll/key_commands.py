"""`rentroll keys`: create, list and revoke API keys, suspend tenants, tell the doors."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table
    from sqlalchemy import Engine

    from infra.api_keys import KeyTerms
    from infra.store.api_keys import ApiKey

MS_PER_DAY = 86_400_000
keys = typer.Typer(name="keys", no_args_is_help=True, help="API keys, and whom the doors serve.")


class Scope(StrEnum):
    """What a key opens."""

    inference = "inference"
    operator = "operator"


class Tier(StrEnum):
    """A service tier, from the last to be served to the first."""

    batch = "batch"
    flex = "flex"
    standard = "standard"
    priority = "priority"


ByOption = Annotated[
    str | None, typer.Option("--by", help="Who does it; else RENTROLL_BILLING_OPERATOR.")
]
TenantOption = Annotated[str, typer.Option("--tenant", help="Who pays.")]
TenantArgument = Annotated[str, typer.Argument(help="The tenant.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it is kept.")]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.add_typer(keys)


@keys.command()
def create(  # noqa: PLR0913 - one option per term of a key
    tenant: TenantOption,
    *,
    project: Annotated[str, typer.Option("--project", help="The tenant's own division.")],
    label: Annotated[str, typer.Option("--label", help="A name for people to know it by.")] = "",
    scope: Annotated[
        list[Scope] | None, typer.Option("--scope", help="What it opens; else inference. Repeat.")
    ] = None,
    tier: Annotated[
        list[Tier] | None, typer.Option("--tier", help="A tier it may use; else standard. Repeat.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", min=1, help="Else without limit.")
    ] = None,
    expires_in_days: Annotated[
        int | None, typer.Option("--expires-in-days", min=1, max=36_500, help="Else never.")
    ] = None,
    by: ByOption = None,
) -> None:
    """Create an API key and show it, once: nobody can show it again.

    Example: [bold]rentroll keys create --tenant acme --project chatbot --tier standard[/]
    """
    import secrets

    from rich.console import Console

    from infra.store.api_keys import CREATION_ENTROPY_BYTES, create_key

    now_ms = _now_ms()
    terms = _terms(
        tenant=tenant,
        project=project,
        label=label,
        scopes=tuple(one.value for one in scope or [Scope.inference]),
        service_tiers=tuple(one.value for one in tier or [Tier.standard]),
        requests_per_minute=requests_per_minute,
        expires_at_ms=now_ms + expires_in_days * MS_PER_DAY if expires_in_days else None,
    )
    with _store() as store:
        key, presented = create_key(
            store,
            terms,
            created_by=_operator(by),
            now_ms=now_ms,
            entropy=secrets.token_bytes(CREATION_ENTROPY_BYTES),
        )
    console = Console(highlight=False)
    console.print(f"{key.key_id} of {tenant}; keep this, it is shown only now:", soft_wrap=True)
    console.print(presented.text(), soft_wrap=True, markup=False)


@keys.command(name="list")
def list_(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's.")] = None,
) -> None:
    """Show all keys and their terms, revoked and expired ones too; never a secret.

    Example: [bold]rentroll keys list --tenant acme[/]
    """
    from rich.console import Console

    from infra.store.api_keys import list_keys

    with _store() as store:
        found = list_keys(store, tenant)
    if not found:
        Console().print("no API keys; make one with `rentroll keys create`")
        return
    Console().print(_table(found, _now_ms()))


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Of the key, as `rentroll keys list` shows it.")],
    *,
    reason: ReasonOption,
    by: ByOption = None,
) -> None:
    """Revoke a key for good; doors turn it away once they have the next snapshot.

    Example: [bold]rentroll keys revoke key_abcdefghijklmnop --reason leaked[/]
    """
    from rich.console import Console

    from infra.store.api_keys import revoke_key

    with _store() as store:
        key = revoke_key(store, key_id, revoked_by=_operator(by), reason=reason, now_ms=_now_ms())
    Console(highlight=False).print(
        f"{key.key_id} of {key.terms.tenant} is revoked, by {key.revoked_by}: {key.revoke_reason}",
        soft_wrap=True,
        markup=False,
    )


@keys.command()
def suspend(tenant: TenantArgument, *, reason: ReasonOption, by: ByOption = None) -> None:
    """Stop serving a tenant; its clients read the reason.

    Example: [bold]rentroll keys suspend acme --reason "invoice R-12 is overdue"[/]
    """
    from rich.console import Console

    from infra.store.api_keys import suspend_tenant

    with _store() as store:
        suspend_tenant(store, tenant, suspended_by=_operator(by), reason=reason, now_ms=_now_ms())
    Console(highlight=False).print(f"{tenant} is suspended", markup=False)


@keys.command()
def resume(tenant: TenantArgument) -> None:
    """Serve a suspended tenant again.

    Example: [bold]rentroll keys resume acme[/]
    """
    from rich.console import Console

    from infra.store.api_keys import resume_tenant

    with _store() as store:
        resume_tenant(store, tenant)
    Console(highlight=False).print(f"{tenant} is served", markup=False)


@keys.command()
def export(
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Where to; else RENTROLL_INFERENCE_DOOR_KEYS_FILE."),
    ] = None,
    every_s: Annotated[
        int | None,
        typer.Option("--every", metavar="SECONDS", min=1, help="Go on until Ctrl-C."),
    ] = None,
) -> None:
    """Write the snapshot that doors read; they see it within a second.

    A door stops admitting when its snapshot is too old (RENTROLL_INFERENCE_DOOR_KEYS_MAX_AGE_S).
    With --every a store that is away is said so and asked again: doors live on the last snapshot.

    Example: [bold]rentroll keys export --every 10[/]
    """
    from contextlib import suppress

    from inference.settings import InferenceSettings

    path = file or InferenceSettings().door_keys_file
    with _store() as store:
        if every_s is None:
            _export(store, path)
            return
        with suppress(KeyboardInterrupt):
            _export_often(store, path, every_s)


def _export(store: "Engine", path: Path) -> None:
    from rich.console import Console

    from inference.key_export import collect_labels, export_keys
    from inference.settings import InferenceSettings
    from schemas.clock import SystemClock

    collect_labels(store, InferenceSettings().host_folder)
    snapshot = export_keys(store, path, SystemClock())
    Console(highlight=False).print(
        f"{len(snapshot.keys)} keys of {len(snapshot.tenants)} tenants in {path}",
        soft_wrap=True,
        markup=False,
    )


def _export_often(store: "Engine", path: Path, every_s: int) -> None:
    import time

    from rich.console import Console
    from sqlalchemy.exc import OperationalError

    while True:
        try:
            _export(store, path)
        except OperationalError as error:
            Console(stderr=True).print(f"billing store: {error.orig}", markup=False)
        time.sleep(every_s)


def _table(found: list["ApiKey"], now_ms: int) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for heading in ("Key", "Tenant", "Project", "Label", "Scopes", "Tiers", "Per minute", "State"):
        table.add_column(heading, overflow="fold")
    for key in found:
        terms = key.terms
        table.add_row(
            key.key_id,
            escape(terms.tenant),
            escape(terms.project),
            escape(terms.label),
            ", ".join(terms.scopes),
            ", ".join(terms.service_tiers),
            str(terms.requests_per_minute or "no limit"),
            escape(_state(key, now_ms)),
        )
    return table


def _state(key: "ApiKey", now_ms: int) -> str:
    from schemas.ids import format_ms

    expires_ms = key.terms.expires_at_ms
    if key.revoked_at_ms is not None:
        return f"revoked: {key.revoke_reason}"
    if expires_ms is None:
        return "valid"
    day = format_ms(expires_ms)[:10]
    return f"expired {day}" if expires_ms <= now_ms else f"valid to {day}"


def _terms(**values: object) -> "KeyTerms":
    """Terms as they were typed in.

    Raises:
        ContractError: With the option and the value that are wrong.
    """
    from pydantic import ValidationError

    from infra.api_keys import KeyTerms
    from schemas.errors import ContractError

    try:
        return KeyTerms.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ContractError(f"{where}: {first['msg']}: {first['input']!r}") from error


@contextmanager
def _store() -> Iterator["Engine"]:
    """Keys need the billing store and nothing else, also on a host that has no local stack."""
    from infra.endpoints import resolve
    from infra.settings import InfraSettings
    from infra.store.engine import open_store

    settings = InfraSettings()
    store = open_store(settings.store_url or resolve(settings).store_url)
    try:
        yield store
    finally:
        store.dispose()


def _operator(by: str | None) -> str:
    from billing.settings import BillingSettings

    return by or BillingSettings().operator


def _now_ms() -> int:
    from schemas.clock import SystemClock
    from schemas.units import NS_PER_MS

    return SystemClock().now_ns() // NS_PER_MS
