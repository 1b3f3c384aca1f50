"""Looks at an installed vLLM: `python -m inference.vllm_check`, in its own environment.

Prints one JSON object: the version, and per part of Rentroll that goes into it what is wrong, or
nothing. The version is of the code that answers, not of what a package index once said.
"""

import json
import sys
from collections.abc import Callable


def check_scheduler() -> None:
    """See that the scheduler's hooks are there; raises `SettingsError` or `ImportError` if not."""
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.version import __version__

    from inference.vllm_scheduler import refuse_unless_hooked

    for scheduler in (Scheduler, AsyncScheduler):
        refuse_unless_hooked(scheduler, __version__)


def check_door() -> None:
    """See that the middleware can be loaded, and finds its hook; raises as above."""
    import inference.middleware
    from inference.vllm_door import register

    register()
    sys.stderr.write(f"{inference.middleware.__name__} is loaded\n")


def wrong_with(check: Callable[[], None]) -> str:
    """What a check raises; empty if nothing. Whatever vLLM's modules raise is an answer."""
    try:
        check()
    except Exception as error:  # whatever it is, it would keep vLLM from starting
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> int:
    """Check, and print what was found as the last line."""
    from vllm.version import __version__

    found = {
        "version": str(__version__),
        "scheduler": wrong_with(check_scheduler),
        "door": wrong_with(check_door),
    }
    sys.stdout.write(f"\n{json.dumps(found)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
