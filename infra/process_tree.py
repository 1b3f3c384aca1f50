"""Which process is whose child, now. Nothing but the standard library, so that it loads at once."""

from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")
_PARENT_FIELD = 1
"""Of /proc/PID/stat, counted behind the `)` that ends the command name."""


def children_by_parent() -> dict[int, list[int]]:
    """Pids of the living and of zombies, by the pid of their parent; empty without a /proc."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in PROC.glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children[int(fields[_PARENT_FIELD])].append(int(entry.name))
    return children
