"""`rentroll erase`: forget who an end user was; every digest, archive and proof stays as it is."""

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    app.command(epilog="Example: rentroll erase --tenant acme --end-user u-17 --who ann --why R-4")(
        erase
    )


def erase(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose end user it is.")],
    *,
    end_user: Annotated[
        str | None, typer.Option("--end-user", help="The label, as the tenant's requests carry it.")
    ] = None,
    all_end_users: Annotated[
        bool, typer.Option("--all-end-users", help="Every end user of the tenant.")
    ] = False,
    who: Annotated[str, typer.Option("--who", help="Who asks for it; it is kept.")],
    why: Annotated[str, typer.Option("--why", help="Why, without naming the person; it is kept.")],
) -> None:
    """Erase what links an end user's label to its events, for good.

    Events carry a pseudonym, an HMAC under the tenant's key. The label is deleted and the key
    replaced, so that nobody can link them any more; events, digests, archives and invoices do not
    change by a byte. End users who stay have other pseudonyms from now on.
    """
    import secrets

    from rich.console import Console

    from infra.endpoints import resolve
    from infra.settings import InfraSettings
    from infra.store.end_users import KEY_BYTES, Erasure
    from infra.store.end_users import erase as erase_in
    from infra.store.engine import open_store
    from schemas.clock import SystemClock
    from schemas.units import NS_PER_MS

    if all_end_users == (end_user is not None):
        raise typer.BadParameter("give either --end-user or --all-end-users")
    settings = InfraSettings()
    store = open_store(settings.store_url or resolve(settings).store_url)
    asked = Erasure(tenant, end_user, who, why, SystemClock().now_ns() // NS_PER_MS)
    try:
        removed = erase_in(store, asked, entropy=secrets.token_bytes(KEY_BYTES))
    finally:
        store.dispose()
    Console(highlight=False).print(
        f"erased: {removed} labels of {tenant} are gone and its key is replaced. Doors take the new"
        " key with the next `rentroll keys export`; backups of the store still hold the old one",
        soft_wrap=True,
        markup=False,
    )
