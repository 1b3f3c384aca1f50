"""Brings the billing store to a revision of its schema, by Alembic, in one transaction."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection, make_url
from sqlalchemy.exc import OperationalError

from infra.store.engine import open_store, take_turns
from schemas.errors import MigrationError, ServerError

_HERE = Path(__file__).parent


def upgrade(url: str) -> None:
    """Bring the store at `url` to the newest revision; a current store is left alone.

    Runners at once take turns. Either the whole way is gone, or nothing has changed.

    Raises:
        MigrationError: If the store is at a revision that this version does not know.
        ServerError: If the store cannot be reached.
    """
    _run(url, lambda config: command.upgrade(config, "head"))


def downgrade(url: str, revision: str) -> None:
    """Take the store back to `revision`, `base` for an empty one; what the tables held is lost.

    Raises:
        MigrationError: If there is no such revision on the way back.
        ServerError: If the store cannot be reached.
    """
    _run(url, lambda config: command.downgrade(config, revision))


def current(url: str) -> str | None:
    """The revision of the store; `None` where nothing was migrated yet.

    Raises:
        ServerError: If the store cannot be reached.
    """
    if _is_missing_file(url):
        return None
    with _transaction(url) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def pending(url: str) -> list[str]:
    """What `upgrade` would apply, oldest first, each as `revision: what it does`.

    Raises:
        MigrationError: If the store is at a revision that this version does not know.
        ServerError: If the store cannot be reached.
    """
    here = current(url)
    try:
        scripts = list(ScriptDirectory.from_config(_config()).iterate_revisions("head", here))
    except (CommandError, RevisionError) as error:
        raise MigrationError(f"billing store: {error}") from error
    return [f"{script.revision}: {script.doc}" for script in reversed(scripts)]


def _run(url: str, step: Callable[[Config], None]) -> None:
    with _transaction(url) as connection:
        take_turns(connection, "migrations")
        config = _config()
        config.attributes["connection"] = connection
        try:
            step(config)
        except (CommandError, RevisionError) as error:
            raise MigrationError(f"billing store: {error}") from error


def _is_missing_file(url: str) -> bool:
    """Whether this is a SQLite file that is not there; a look at it would create it."""
    parts = make_url(url)
    file = parts.database if parts.get_backend_name() == "sqlite" else None
    return bool(file) and file != ":memory:" and not Path(str(file)).exists()


def _config() -> Config:
    config = Config()
    # Percent signs would be read as interpolation.
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("version_locations", str(_HERE / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    return config


@contextmanager
def _transaction(url: str) -> Iterator[Connection]:
    store = open_store(url)
    try:
        with store.begin() as connection:
            yield connection
    except OperationalError as error:
        shown = store.url.render_as_string(hide_password=True)
        raise ServerError(f"billing store at {shown}: {error.orig}") from error
    finally:
        store.dispose()
