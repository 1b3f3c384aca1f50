"""The files under `schemas/generated` are those that the models generate now."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ContractError
from schemas.generate import CONTRACTS, asyncapi, freeze, generated_files, main, write
from schemas.topics import TOPICS
from tests.support.examples import ROOT

GENERATED = ROOT / "schemas/generated"


def stale_files(folder: Path) -> list[str]:
    expected = generated_files()
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    missing = set(expected) ^ there
    changed = {path for path in expected if path in there} - {
        path for path in there if (folder / path).read_text(encoding="utf-8") == expected.get(path)
    }
    return sorted(missing | changed)


def references(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(content, list):
        for value in content:
            yield from references(value)


def test_generated_files_are_current() -> None:
    assert stale_files(GENERATED) == [], "run `make schemas` and commit what changed"


def test_a_stale_missing_or_foreign_file_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "generated"
    shutil.copytree(GENERATED, folder)
    changed = folder / "v1/invoice.schema.json"
    changed.write_text(changed.read_text().replace("integer", "number", 1))
    (folder / "v1/statement.schema.json").unlink()
    (folder / "v1/left_over.schema.json").write_text("{}")
    assert stale_files(folder) == [
        "v1/invoice.schema.json",
        "v1/left_over.schema.json",
        "v1/statement.schema.json",
    ]
    write(folder)
    assert stale_files(folder) == []


def test_asyncapi_names_every_topic_and_its_references_resolve() -> None:
    document = json.loads((GENERATED / "asyncapi.json").read_text())
    assert set(document["channels"]) == {topic.name for topic in TOPICS}
    found = list(references(document))
    assert found
    for reference in found:
        file, _, inner = reference.partition("#")
        if file:
            assert (GENERATED / file).is_file(), reference
            continue
        here = document
        for key in inner.strip("/").split("/"):
            here = here[key]


def test_asyncapi_says_how_long_each_topic_is_kept() -> None:
    channels = asyncapi()["channels"]
    for topic in TOPICS:
        kafka = channels[topic.name]["bindings"]["kafka"]
        assert kafka["topicConfiguration"]["retention.ms"] == topic.retention_ms
        assert kafka["partitions"] == topic.partitions
        assert topic.key in channels[topic.name]["description"]


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--release VERSION" in capsys.readouterr().out


def test_a_release_is_frozen_once(tmp_path: Path) -> None:
    freeze("9.9.9", tmp_path)
    assert len(list((tmp_path / "v9.9.9").glob("*.schema.json"))) == len(CONTRACTS)
    with pytest.raises(ContractError, match="never change again"):
        freeze("9.9.9", tmp_path)
