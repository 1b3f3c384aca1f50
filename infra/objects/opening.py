"""Opens objects by the URL of their root."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.objects.folder import FolderObjects
from infra.objects.protocol import Objects


def open_objects(url: str) -> Objects:
    """Objects below a folder (a path, or `file:///…`) or a cloud's URL (`s3://bucket/prefix`, …).

    Raises:
        ServerError: If no storage can be opened by that URL.
    """
    if "://" not in url:
        return FolderObjects(Path(url))
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderObjects(Path(unquote(parts.path)))
    # Its SDK is loaded only where it is used.
    from infra.objects.cloud import CloudObjects

    return CloudObjects(url)
