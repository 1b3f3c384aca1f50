"""Reads YAML that people write into nodes that know their line; refuses what YAML guesses at.

YAML turns `0.06` into a binary float, `no` into false and a key given twice into the last one.
Nothing here converts a scalar: the text is taken as written and the caller says what it must be.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from schemas.errors import PriceBookError

__all__ = ["MappingNode", "Node", "ScalarNode", "Source"]

FILE_BYTES_MAX = 8 * 1024 * 1024
DEPTH_MAX = 16
_TAG = "tag:yaml.org,2002:"
_WHOLE_NUMBER = re.compile(r"[1-9][0-9]{0,2}(_[0-9]{3})+|[1-9][0-9]*|0")


class Source:
    """One file: names its lines in errors and reads its nodes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def at(self, node: Node) -> str:
        """`file:line` of a node."""
        return f"{self._path}:{node.start_mark.line + 1}"

    def error(self, node: Node, message: str) -> PriceBookError:
        """An error that starts with where the node stands."""
        return PriceBookError(f"{self.at(node)}: {message}")

    def refused(self, node: Node, error: ValidationError) -> PriceBookError:
        """What a contract in `schemas` found wrong with what the node says."""
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        return self.error(node, f"{field}: {message}" if field else message)

    def root(self) -> Node:
        """The one document of the file.

        Raises:
            PriceBookError: If it cannot be read, is not YAML, has aliases or is nested too deep.
        """
        text = self._text()
        try:
            self._refuse_aliases_and_depth(text)
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            raise PriceBookError(f"{self._path}:{line}: not YAML: {error.problem}") from error
        except yaml.YAMLError as error:
            raise PriceBookError(f"{self._path}:1: not YAML: {error}") from error
        if node is None:
            raise PriceBookError(f"{self._path}:1: the file is empty")
        return node

    def _refuse_aliases_and_depth(self, text: str) -> None:
        """Both let a short file cost hours to read; an alias also hides what a price is."""
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent):
                raise PriceBookError(f"{self._path}:{line}: write it out: aliases are not read")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH_MAX:
                raise PriceBookError(f"{self._path}:{line}: nested deeper than {DEPTH_MAX} levels")

    def _text(self) -> str:
        try:
            raw = self._path.read_bytes()
            if len(raw) > FILE_BYTES_MAX:
                raise PriceBookError(
                    f"{self._path}:1: {len(raw)} bytes is over the limit of {FILE_BYTES_MAX}"
                )
            return raw.decode()
        except OSError as error:
            raise PriceBookError(f"{self._path}:1: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise PriceBookError(f"{self._path}:{line}: not UTF-8 text") from error

    def mapping(self, node: Node, what: str) -> dict[str, tuple[ScalarNode, Node]]:
        """Keys of a mapping, each with its own node and its value's.

        Raises:
            PriceBookError: If the node is no mapping or a key stands twice.
        """
        if not isinstance(node, MappingNode):
            raise self.error(node, f"{what} must be a list of `key: value`")
        found: dict[str, tuple[ScalarNode, Node]] = {}
        for key_node, value in node.value:
            key = self.text(key_node, f"a key of {what}")
            if key in found:
                first = found[key][0].start_mark.line + 1
                raise self.error(key_node, f"{what} has {key!r} twice, first in line {first}")
            found[key] = (key_node, value)
        return found

    def known(
        self, node: Node, what: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> Mapping[str, Node]:
        """Values of a mapping whose keys are known.

        Raises:
            PriceBookError: If a key is unknown or a required one is missing.
        """
        found = self.mapping(node, what)
        for key, (key_node, _) in found.items():
            if key not in required and key not in optional:
                known = ", ".join((*required, *optional))
                raise self.error(key_node, f"{what} has unknown key {key!r}; keys are {known}")
        missing = [key for key in required if key not in found]
        if missing:
            raise self.error(node, f"{what} has no {missing[0]!r}")
        return {key: value for key, (_, value) in found.items()}

    def items(self, node: Node, what: str) -> list[Node]:
        """Elements of a list that is not empty."""
        if not isinstance(node, SequenceNode) or not node.value:
            raise self.error(node, f"{what} must be a list with at least one entry")
        return list(node.value)

    def text(self, node: Node, what: str) -> str:
        """A word; one that YAML would read as a number, date or truth value needs quotes."""
        scalar = self._scalar(node, what)
        if scalar.tag != f"{_TAG}str":
            raise self.error(node, f'{what} must be text; write it in quotes: "{scalar.value}"')
        return str(scalar.value)

    def money(self, node: Node, what: str) -> str:
        """A plain decimal in quotes; also a whole one, so that there is one rule to remember."""
        scalar = self._scalar(node, what)
        if scalar.style not in ("'", '"') or scalar.tag != f"{_TAG}str":
            raise self.error(
                node,
                f"{what}: money is written in quotes, since YAML would make a binary float of it:"
                f' "{scalar.value}"',
            )
        return str(scalar.value)

    def whole_number(self, node: Node, what: str) -> int:
        """A count of 1 or more: 1000000 or 1_000_000."""
        text = str(self._scalar(node, what).value)
        if not _WHOLE_NUMBER.fullmatch(text) or text == "0":
            raise self.error(node, f"{what} must be a whole number from 1 up, not {text!r}")
        return int(text.replace("_", ""))

    def written(self, node: Node, what: str) -> str:
        """A scalar exactly as written, whatever YAML would make of it."""
        return str(self._scalar(node, what).value)

    def _scalar(self, node: Node, what: str) -> ScalarNode:
        if not isinstance(node, ScalarNode):
            raise self.error(node, f"{what} must be a single value")
        return node
