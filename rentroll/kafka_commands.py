"""`rentroll kafka`: which rights each role needs on the broker, and which this user has."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from infra.kafka.rights import Role
    from infra.settings import InfraSettings
    from streams.settings import StreamSettings

RoleOption = Annotated[
    str | None, typer.Option("--role", metavar="NAME", help="Only this role; all if left out.")
]


def register(app: typer.Typer) -> None:
    """Add this area's commands to the command line."""
    kafka = typer.Typer(no_args_is_help=True, help="Rights of our roles on the broker.")
    kafka.command(epilog="Example: [bold]rentroll kafka acls --role worker[/]")(acls)
    kafka.command(epilog="Example: [bold]rentroll kafka check[/]")(check)
    app.add_typer(kafka, name="kafka")


def acls(
    role: RoleOption = None,
    principal: Annotated[
        str | None,
        typer.Option(metavar="PRINCIPAL", help="Whom to grant it; User:rentroll-ROLE if left out."),
    ] = None,
    config: Annotated[
        str, typer.Option(metavar="FILE", help="Properties with which an administrator logs in.")
    ] = "admin.properties",
) -> None:
    """Print the commands that grant each role what it needs, and nothing more.

    They are for Kafka's own `kafka-acls`, on a broker with an authorizer.
    """
    from infra.kafka.rights import acl_lines
    from infra.settings import InfraSettings

    bootstrap = InfraSettings().kafka_bootstrap or "HOST:PORT"
    connection = f"--bootstrap-server {bootstrap} --command-config {config}"
    for one in _asked(role):
        typer.echo(f"# {one.name}: {one.why}")
        for line in acl_lines(one, principal or f"User:rentroll-{one.name}", connection):
            typer.echo(line)


def check(role: RoleOption = None) -> None:
    """Say which roles the user of the settings may play, and what it lacks for the others.

    Exit status 1 if it may not play the role that was asked for, or none at all.
    """
    from infra.endpoints import resolve
    from infra.kafka.admin import granted
    from infra.kafka.rights import missing
    from infra.kafka.security import kafka_security
    from infra.settings import InfraSettings

    infra = InfraSettings()
    asked, security = [one for one in _asked(role) if one.rights], kafka_security(infra)
    bootstrap = infra.kafka_bootstrap or resolve(infra).kafka_bootstrap
    may = granted(bootstrap, security, [right for one in asked for right in one.rights])
    lacking = {one.name: missing(one.rights, may) for one in asked}
    typer.echo(f"{security.who()} at {bootstrap}:")
    for name, what in lacking.items():
        typer.echo(f"  {name:9} " + (f"lacks {', '.join(what)}" if what else "may"))
    raise typer.Exit(0 if not all(lacking.values()) else 1)


def known_roles() -> "tuple[Role, ...]":
    """Every role, with the groups that settings name."""
    from streams.settings import StreamSettings

    return _roles_by(StreamSettings())


def see_that_worker_may(bootstrap: str, infra: "InfraSettings", settings: "StreamSettings") -> None:
    """Where brokers ask who one is: stop before the work begins if a worker lacks a right.

    Raises:
        ServerError: If it does, or is not let in; it says what to mend.
    """
    from infra.kafka.admin import require_role
    from infra.kafka.security import kafka_security

    security = kafka_security(infra)
    if security.protocol == "PLAINTEXT":
        return
    (worker,) = (one for one in _roles_by(settings) if one.name == "worker")
    require_role(bootstrap, security, worker)


def _roles_by(settings: "StreamSettings") -> "tuple[Role, ...]":
    from infra.kafka.rights import roles

    return roles(settings.ingest_group, settings.archive_group, settings.live_group)


def _asked(role: str | None) -> "list[Role]":
    known = known_roles()
    found = [one for one in known if role in (None, one.name)]
    if not found:
        raise typer.BadParameter(f"no role {role}: there are {', '.join(r.name for r in known)}")
    return found
