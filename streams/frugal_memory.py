"""How the worker's memory is allocated, so that what it has freed goes back to the system."""

import ctypes
import os
import sys

_ARROW_POOL = "ARROW_DEFAULT_MEMORY_POOL"
_GLIBC_ARENAS = "MALLOC_ARENA_MAX"
_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""
ARENAS = 2
"""The interpreter's lock lets few threads allocate at once: more arenas only hold more back."""


def allocate_frugally() -> None:
    """Let Arrow use jemalloc, and glibc few arenas; what the environment asks for comes first.

    A fetch's columns are made by one thread and freed by another, a second later. Arrow's own
    choice, mimalloc, kept twice as much for that as was ever in use at once; jemalloc gives it
    back. Arrow looks once, when it is imported: call this before, and before threads start.
    Elsewhere than on Linux the process takes some 100 MB more, and no harm.
    """
    if sys.platform != "linux":
        return
    # Not configuration: it is how Arrow is told, and it has no other way to tell all of it.
    os.environ.setdefault(_ARROW_POOL, "jemalloc")  # noqa: TID251
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and _GLIBC_ARENAS not in os.environ:  # noqa: TID251
        mallopt(_M_ARENA_MAX, ARENAS)
