"""Reads YAML that a person wrote so that every complaint names the file and the line."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from schemas.errors import FleetFileError
from schemas.fields import NAME_PATTERN

_NAME = re.compile(NAME_PATTERN[1:-1])
_NAME_LENGTH_MAX = 128


@dataclass(frozen=True, slots=True)
class Lined:
    """A YAML node that knows where it stands; the methods say what it must be.

    Every method raises `FleetFileError` with `file:line` where the node is something else.
    """

    path: Path
    what: str
    node: yaml.Node

    @property
    def line(self) -> int:
        """Line of the file, from 1."""
        return int(self.node.start_mark.line) + 1

    def wrong(self, problem: str) -> FleetFileError:
        """The error that this node is, to be raised."""
        return FleetFileError(f"{self.path}:{self.line}: {self.what}: {problem}")

    def fields(
        self, required: Collection[str], optional: Collection[str] = ()
    ) -> "dict[str, Lined]":
        """A mapping with exactly these keys."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong("a mapping is expected here")
        found: dict[str, Lined] = {}
        for key, value in self.node.value:
            name = str(key.value)
            at_key = Lined(self.path, self.what, key)
            if name in found:
                raise at_key.wrong(f"{name!r} stands here twice")
            if name not in required and name not in optional:
                known = ", ".join([*required, *optional])
                raise at_key.wrong(f"{name!r} is none of {known}")
            found[name] = Lined(self.path, f"{self.what}.{name}", value)
        for name in required:
            if name not in found:
                raise self.wrong(f"{name!r} is missing")
        return found

    def items(self) -> "Iterator[Lined]":
        """The nodes of a list that is not empty."""
        if not isinstance(self.node, yaml.SequenceNode) or not self.node.value:
            raise self.wrong("a list with at least one item is expected here")
        for index, value in enumerate(self.node.value):
            yield Lined(self.path, f"{self.what}[{index}]", value)

    def text(self) -> str:
        """A plain scalar, as it is written."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.wrong("a single value is expected here")
        return str(self.node.value)

    def name(self) -> str:
        """A name as events carry it: ASCII, no spaces."""
        text = self.text()
        if not _NAME.fullmatch(text) or len(text) > _NAME_LENGTH_MAX:
            raise self.wrong(f"{text!r} is not a name (letters, digits, ._:/@+-, at most 128)")
        return text

    def integer(self, low: int, high: int) -> int:
        """A whole number in `[low, high]`."""
        text = self.text()
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise self.wrong(f"{text!r} is not a whole number")
        if not low <= int(text) <= high:
            raise self.wrong(f"{text} is not between {low} and {high}")
        return int(text)


def read_yaml(path: Path) -> tuple[Lined, bytes]:
    """The root of a YAML file, and the file's bytes.

    Raises:
        FleetFileError: If the file cannot be read, is not YAML, or is empty.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FleetFileError(f"{path}:1: cannot be read: {error.strerror}") from error
    try:
        root = yaml.compose(raw.decode(), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise FleetFileError(f"{path}:{line}: not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise FleetFileError(f"{path}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise FleetFileError(f"{path}:1: not YAML: {error}") from error
    if root is None:
        raise FleetFileError(f"{path}:1: the file is empty")
    return Lined(path, path.stem, root), raw
