"""Faults that a test plants: lost requests, lost answers, errors, delays."""

import re
import threading
from dataclasses import dataclass
from typing import Literal, get_args

from infra.stripe_fake.refusal import RefusalError

FaultKind = Literal[
    "drop_before", "drop_after", "error_before", "error_after", "error_stored", "latency"
]
"""What happens to a request.

drop_before: the connection breaks, nothing was done; drop_after: done, but no answer comes;
error_before: `status` (429, 409, 500, …), nothing done or kept; error_after: done, and `status`
is kept under the key as its answer; error_stored: nothing done, `status` is kept under the key;
latency: everything is done `latency_ms` later.
"""


@dataclass(slots=True)
class Fault:
    """A fault for the next `times` requests whose method and path match."""

    method: str
    path: re.Pattern[str]
    kind: FaultKind
    times: int
    status: int
    latency_ms: int


class Faults:
    """The planted faults, in order; a request meets the first that matches it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planted: list[Fault] = []

    def plant(self, wanted: dict[str, object]) -> None:
        """Add a fault from a control request.

        Raises:
            RefusalError: If the kind is unknown.
        """
        kinds: dict[str, FaultKind] = {kind: kind for kind in get_args(FaultKind)}
        kind = kinds.get(str(wanted["kind"]))
        if kind is None:
            raise RefusalError(f"unknown fault {wanted['kind']!r}; known: {sorted(kinds)}")
        fault = Fault(
            method=str(wanted["method"]),
            path=re.compile(str(wanted["path"])),
            kind=kind,
            times=int(str(wanted.get("times", 1))),
            status=int(str(wanted.get("status", 500))),
            latency_ms=int(str(wanted.get("latency_ms", 0))),
        )
        with self._lock:
            self._planted.append(fault)

    def clear(self) -> None:
        """Forget every fault."""
        with self._lock:
            self._planted.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, if any."""
        with self._lock:
            for fault in self._planted:
                if fault.times > 0 and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    return fault
        return None
