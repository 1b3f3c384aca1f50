"""Writes the contracts in languages that others read: JSON Schema and AsyncAPI.

Example:
    `python -m schemas.generate` rewrites `schemas/generated`; `python -m schemas.generate
    --release 0.1.0` freezes what stands there, with its examples, in `schemas/released/v0.1.0`.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.billing import Invoice, RatedLine, Statement
from schemas.control import DeadLetter
from schemas.corrections import Correction
from schemas.errors import ContractError
from schemas.fields import Contract
from schemas.prices import PriceBook
from schemas.topics import EVENTS, TOPICS, Topic, event_type

HERE = Path(__file__).parent
VERSION = "v1"
EXAMPLES = HERE / "examples" / VERSION / "valid"
GENERATED = HERE / "generated"
RELEASED = HERE / "released"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def event_name(event: type[Contract]) -> str:
    """The noun and verb of an event's type, such as `request.finished`."""
    return event_type(event).removeprefix("io.rentroll.").rsplit(".", 1)[0]


CONTRACTS: dict[str, type[Contract]] = {
    **{event_name(event): event for event in EVENTS},
    "dead_letter": DeadLetter,
    "price_book": PriceBook,
    "rated_line": RatedLine,
    "invoice": Invoice,
    "correction": Correction,
    "statement": Statement,
}
"""Everything that leaves a stage, under the name that its schema and examples have."""


def generated_files() -> dict[str, str]:
    """Every generated file's text by its path under `schemas/generated`."""
    files = {f"{VERSION}/{name}.schema.json": json_schema(name) for name in CONTRACTS}
    return {path: _text(content) for path, content in files.items()} | {
        "asyncapi.json": _text(asyncapi()),
    }


def json_schema(name: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one contract.

    It holds the shape. Rules between fields, such as conservation of GPU time, are checked by
    the model only, and stand in the descriptions.
    """
    schema = CONTRACTS[name].model_json_schema()
    return {"$schema": DIALECT, "$id": f"urn:rentroll:schema:{VERSION}:{name}", **schema}


def asyncapi() -> dict[str, Any]:
    """One AsyncAPI 3.0 document: topics, keys, messages, how long records are kept."""
    messages = {_name_of(message): message for topic in TOPICS for message in topic.messages}
    operations: dict[str, Any] = {}
    for topic in TOPICS:
        channel = {"$ref": f"#/channels/{topic.name}"}
        operations[f"send_{topic.name}"] = {"action": "send", "channel": channel}
        operations[f"receive_{topic.name}"] = {"action": "receive", "channel": channel}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Rentroll events",
            "version": VERSION,
            "description": "CloudEvents 1.0, structured JSON; one event is one record's value.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": operations,
        "components": {
            "messages": {name: _message(name, model) for name, model in messages.items()},
        },
    }


def _name_of(message: type[Contract]) -> str:
    return next(name for name, model in CONTRACTS.items() if model is message)


def _channel(topic: Topic) -> dict[str, Any]:
    names = [_name_of(message) for message in topic.messages]
    config = topic.config()
    return {
        "address": topic.name,
        "description": f"Key: {topic.key}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partitions,
                "topicConfiguration": {
                    "cleanup.policy": [topic.cleanup],
                    "retention.ms": topic.retention_ms,
                    "max.message.bytes": int(config["max.message.bytes"]),
                },
                "bindingVersion": "0.5.0",
            },
        },
    }


def _message(name: str, model: type[Contract]) -> dict[str, Any]:
    topic = next(topic for topic in TOPICS if model in topic.messages)
    return {
        "name": name,
        "contentType": "application/json",
        "summary": (model.__doc__ or "").strip().splitlines()[0],
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": f"./{VERSION}/{name}.schema.json"},
        },
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": topic.key},
                "bindingVersion": "0.5.0",
            },
        },
    }


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    """Make `folder` hold the generated files and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, text in generated_files().items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def freeze(version: str, released: Path) -> None:
    """Copy today's schemas and valid examples to `released/v<version>`, for good.

    Raises:
        ContractError: If that version is frozen already.
    """
    folder = released / f"v{version}"
    if folder.exists():
        raise ContractError(f"{folder.name} is released: its schemas never change again")
    examples = folder / "examples"
    examples.mkdir(parents=True)
    for name in CONTRACTS:
        (folder / f"{name}.schema.json").write_text(_text(json_schema(name)), encoding="utf-8")
    for example in sorted(EXAMPLES.glob("*.json")):
        shutil.copyfile(example, examples / example.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m schemas.generate`."""
    parser = argparse.ArgumentParser(prog="python -m schemas.generate", description=__doc__)
    parser.add_argument("--release", metavar="VERSION", help="freeze the contracts, e.g. 0.1.0")
    release: str | None = parser.parse_args(arguments).release
    write(GENERATED)
    if release:
        freeze(release, RELEASED)


if __name__ == "__main__":
    main()
