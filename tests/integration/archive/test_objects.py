"""One suite for every storage: what a folder promises, S3 promises too."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.objects.opening import open_objects
from infra.objects.protocol import Objects
from schemas.errors import ServerError
from tests.support.servers.s3 import S3Server


@pytest.fixture(params=["folder", "file-url", "s3"])
def objects(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Objects:
    if request.param == "folder":
        return open_objects(str(tmp_path / "archive"))
    if request.param == "file-url":
        return open_objects(f"file://{tmp_path}/with%20space")
    s3: S3Server = request.getfixturevalue("s3")
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return open_objects(s3.new_bucket())


def names(objects: Objects, prefix: str = "") -> dict[str, int]:
    return {one.name: one.size_bytes for one in objects.listed(prefix)}


def test_object_is_there_as_it_was_written_and_replaced(objects: Objects) -> None:
    assert objects.get("a/b.json") is None
    objects.put("a/b.json", b"one")
    objects.put("a/b.json", b"three")
    assert objects.get("a/b.json") == b"three"
    assert objects.get("a") is None


def test_name_that_is_taken_is_not_written_again(objects: Objects) -> None:
    assert objects.put_new("a/1.json", b"mine")
    assert not objects.put_new("a/1.json", b"yours")
    assert objects.get("a/1.json") == b"mine"


def test_of_many_writers_of_one_name_one_succeeds(objects: Objects) -> None:
    for number in range(5):
        name = f"race/{number}.json"

        def write(writer: int, name: str = name) -> bool:
            return objects.put_new(name, b"%d" % writer)

        with ThreadPoolExecutor(8) as writers:
            won = [writer for writer, first in enumerate(writers.map(write, range(8))) if first]
        assert [objects.get(name)] == [b"%d" % writer for writer in won]


def test_listing_is_by_whole_parts_of_names(objects: Objects) -> None:
    for name in ("usage.v1/00000/x.parquet", "usage.v1/00000/manifest/1.json", "usage.v10/y"):
        objects.put(name, b"12345")
    assert names(objects, "usage.v1") == {
        "usage.v1/00000/x.parquet": 5,
        "usage.v1/00000/manifest/1.json": 5,
    }
    assert len(names(objects)) == 3
    assert names(objects, "nothing") == {}


def test_file_that_was_never_finished_is_no_object(tmp_path: Path) -> None:
    objects = open_objects(str(tmp_path))
    objects.put("a/b", b"1")
    (tmp_path / "a" / ".c.123.0").write_bytes(b"half")
    assert names(objects) == {"a/b": 1}


def unwritable_folder(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("in the way")
    return str(tmp_path / "file" / "archive")


@pytest.mark.parametrize(
    "call",
    [
        lambda objects: objects.put("a", b""),
        lambda objects: objects.put_new("a", b""),
        lambda objects: objects.put("../a", b""),
        lambda objects: objects.get("a/../../b"),
    ],
)
def test_trouble_says_what_could_not_be_done(
    tmp_path: Path, call: Callable[[Objects], object]
) -> None:
    with pytest.raises(ServerError, match=r"cannot write|no object can be named"):
        call(open_objects(unwritable_folder(tmp_path)))


def test_storage_that_is_away_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3Server("http://127.0.0.1:9").environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ServerError, match="no storage can be opened"):
        open_objects("gopher://nowhere")
