"""Objects as files of a local folder, on disk before anybody is told so."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path, PurePosixPath

from infra.objects.protocol import StoredObject
from schemas.errors import ServerError

_numbers = count()


class FolderObjects:
    """Files below `root`. Names that begin with a dot are files that were never finished."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_new(self, name: str, content: bytes) -> bool:
        path = self._path(name)
        try:
            fresh = self._written(path, content)
            try:
                # A link, unlike a rename, refuses a name that is taken.
                os.link(fresh, path)
            except FileExistsError:
                return False
            finally:
                fresh.unlink()
            _sync_folder(path.parent)
        except OSError as error:
            raise ServerError(f"cannot write {path}: {error}") from error
        return True

    def put(self, name: str, content: bytes) -> None:
        path = self._path(name)
        try:
            self._written(path, content).replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise ServerError(f"cannot write {path}: {error}") from error

    def get(self, name: str) -> bytes | None:
        path = self._path(name)
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except OSError as error:
            raise ServerError(f"cannot read {path}: {error}") from error

    def listed(self, prefix: str) -> Iterator[StoredObject]:
        try:
            for folder, _, names in os.walk(self._path(prefix) if prefix else self._root):
                for name in names:
                    path = Path(folder) / name
                    if not name.startswith("."):
                        shown = path.relative_to(self._root).as_posix()
                        yield StoredObject(shown, path.stat().st_size)
        except OSError as error:
            raise ServerError(f"cannot list {self._root}: {error}") from error

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or any(part in ("..", "/") or part.startswith(".") for part in parts):
            raise ServerError(f"no object can be named {name!r}")
        return self._root.joinpath(*parts)

    def _written(self, path: Path, content: bytes) -> Path:
        """Another file beside `path` with the content, on disk."""
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in path.parent.parents:
                _sync_folder(folder)
                if folder == self._root.parent:
                    break
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{next(_numbers)}")
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return fresh


def _sync_folder(folder: Path) -> None:
    """Bring the folder's names to disk: a file without its name would be lost."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
