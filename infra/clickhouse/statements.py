"""Migration text: split into statements, held to re-runnable forms, fitted to a cluster.

Pure: text in, text out.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from schemas.errors import MigrationError

REPLICATED_WINDOW_S = 7 * 24 * 3_600
"""How long a replicated table remembers insert tokens; the server's default has shrunk before."""

_TOKEN = re.compile(
    r"""
      (?P<comment>--[^\n]*|\#[ !][^\n]*|/\*.*?\*/)
    | (?P<quoted>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`)
    | (?P<broken>['"`]|/\*)
    | (?P<word>\w+)
    | (?P<space>\s+)
    | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_RERUNNABLE = re.compile(
    r"CREATE (?:(?:TABLE|VIEW|MATERIALIZED VIEW|DICTIONARY|FUNCTION) IF NOT EXISTS"
    r"|OR REPLACE (?:VIEW|DICTIONARY|FUNCTION)) "
    r"|DROP (?:TABLE|VIEW|DICTIONARY|FUNCTION) IF EXISTS "
)
_ALTER = re.compile(r"ALTER TABLE [^ ]+(?: \. [^ ]+)? ")
_RERUNNABLE_CHANGE = re.compile(
    r"(?:ADD (?:COLUMN|INDEX|CONSTRAINT|PROJECTION) IF NOT EXISTS"
    r"|(?:DROP|CLEAR|RENAME|COMMENT) (?:COLUMN|INDEX|CONSTRAINT|PROJECTION) IF EXISTS"
    r"|MODIFY (?:COLUMN IF EXISTS|SETTING|ORDER BY|TTL|COMMENT)"
    r"|MATERIALIZE (?:COLUMN|INDEX|PROJECTION|TTL))\b"
)
_NAMED_OBJECT = re.compile(
    r"""
    (?:CREATE|DROP|ALTER)(?:\s+OR\s+REPLACE)?
    \s+(?:DATABASE|TABLE|VIEW|MATERIALIZED\s+VIEW|DICTIONARY|FUNCTION)
    (?:\s+IF(?:\s+NOT)?\s+EXISTS)?
    \s+(?:`[^`]+`|\w+)(?:\.(?:`[^`]+`|\w+))?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CLUSTER_NAME = re.compile(r"[A-Za-z_{][A-Za-z0-9_{}.-]*")
_WINDOW = "non_replicated_deduplication_window"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


def split_statements(text: str, file: str) -> list[str]:
    """The statements of a migration, in order, without comments and closing semicolons.

    A semicolon inside quotes or a comment ends nothing.

    Args:
        text: The whole file.
        file: Its name, for messages.

    Raises:
        MigrationError: If a quote or comment is never closed, or there is no statement at all.
    """
    statements: list[str] = []
    current: list[str] = []
    for token in _tokens(text, file):
        if token == _Token("mark", ";"):
            statements.append("".join(current).strip())
            current = []
        else:
            current.append(" " if token.kind == "comment" else token.text)
    statements.append("".join(current).strip())
    found = [statement for statement in statements if statement]
    if not found:
        raise MigrationError(f"{file} holds no statement")
    return found


def demand_rerunnable(statement: str, file: str) -> None:
    """Refuse a statement that could not simply be run again after a crash.

    The server has no transactions around DDL: between a statement and the row that records it
    a crash always fits, and then the statement is run a second time.

    Raises:
        MigrationError: If the statement's form is not known to be re-runnable.
    """
    flat = _flat(statement)
    if _RERUNNABLE.match(flat):
        return
    altered = _ALTER.match(flat)
    if altered and all(map(_RERUNNABLE_CHANGE.match, _top_level_items(flat[altered.end() :]))):
        return
    raise MigrationError(
        f"{file}: a crash could not be continued behind {flat[:80]!r}: write CREATE … IF NOT EXISTS"
        f" or OR REPLACE, DROP … IF EXISTS, ALTER TABLE … ADD COLUMN IF NOT EXISTS and the like",
    )


def for_cluster(statement: str, cluster: str | None) -> str:
    """The statement as `cluster` needs it; unchanged on a single node.

    On a cluster every MergeTree engine becomes its Replicated form (path and replica name by
    the server's `default_replica_path` and macros), the deduplication window the replicated one,
    and the statement is sent to all nodes.

    Raises:
        MigrationError: If the cluster's name could not stand in a statement.
    """
    if cluster is None:
        return statement
    if not _CLUSTER_NAME.fullmatch(cluster):
        raise MigrationError(f"RENTROLL_CLICKHOUSE_CLUSTER is not a cluster's name: {cluster!r}")
    replicated = "".join(_replicated(token) for token in _tokens(statement, "statement")).strip()
    head = _NAMED_OBJECT.match(replicated)
    if head is None:
        raise MigrationError(f"no rule puts this on a cluster: {replicated[:80]!r}")
    return f"{head.group()} ON CLUSTER '{cluster}'{replicated[head.end() :]}"


def _replicated(token: _Token) -> str:
    if token.kind == "word" and token.text == _WINDOW:
        seconds = f"replicated_deduplication_window_seconds = {REPLICATED_WINDOW_S}"
        return f"{seconds}, replicated_deduplication_window"
    engine = token.kind == "word" and token.text.endswith("MergeTree")
    if engine and not token.text.startswith(("Replicated", "Shared")):
        return f"Replicated{token.text}"
    return token.text


def _tokens(text: str, file: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "mark"
        if kind == "broken":
            line = text.count("\n", 0, match.start()) + 1
            raise MigrationError(f"{file}:{line}: {match.group()} is opened and never closed")
        yield _Token(kind, match.group())


def _flat(statement: str) -> str:
    """Words in upper case, one space between tokens, no comments; quoted text as it is."""
    solid = (t for t in _tokens(statement, "statement") if t.kind not in ("space", "comment"))
    return " ".join(t.text if t.kind == "quoted" else t.text.upper() for t in solid)


def _top_level_items(flat: str) -> list[str]:
    """The parts between commas that stand in no bracket."""
    items = [""]
    depth = 0
    for word in flat.split(" "):
        depth += (word == "(") - (word == ")")
        if word == "," and depth == 0:
            items.append("")
        else:
            items[-1] = f"{items[-1]} {word}".strip()
    return items
