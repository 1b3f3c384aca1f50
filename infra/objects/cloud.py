"""Objects in S3, Google Cloud Storage, Azure, or whatever speaks one of their languages.

Keys, region and endpoint come from the variables that those clouds' own tools read, such as
AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL and, for an endpoint without TLS, AWS_ALLOW_HTTP.
"""

from collections.abc import Iterator

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url

from infra.addresses import without_secret
from infra.objects.protocol import StoredObject
from schemas.errors import ServerError


class CloudObjects:
    """Objects below a URL such as `s3://bucket/rentroll`."""

    def __init__(self, url: str) -> None:
        self._shown = without_secret(url)
        try:
            self._store = from_url(url)
        except (BaseError, ValueError) as error:
            raise ServerError(f"no storage can be opened by {self._shown}: {error}") from error

    def put_new(self, name: str, content: bytes) -> bool:
        try:
            # In one request: only such a one can be conditional.
            obstore.put(self._store, name, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except BaseError as error:
            raise self._trouble("write", name, error) from error
        return True

    def put(self, name: str, content: bytes) -> None:
        try:
            obstore.put(self._store, name, content)
        except BaseError as error:
            raise self._trouble("write", name, error) from error

    def get(self, name: str) -> bytes | None:
        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except BaseError as error:
            raise self._trouble("read", name, error) from error

    def listed(self, prefix: str) -> Iterator[StoredObject]:
        try:
            for page in obstore.list(self._store, prefix or None, chunk_size=1_000):
                for found in page:
                    yield StoredObject(found["path"], found["size"])
        except BaseError as error:
            raise self._trouble("list", prefix, error) from error

    def _trouble(self, what: str, name: str, error: BaseError) -> ServerError:
        return ServerError(f"cannot {what} {name} in {self._shown}: {error}")
