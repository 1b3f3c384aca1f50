"""Tries again, for ever, with growing waits: what cannot be written now is never dropped."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

log = logging.getLogger("rentroll.ingest")

Result = TypeVar("Result")


class NotNowError(Exception):
    """A server did not do it this time; the same call may succeed later. Caught in `patiently`."""


async def patiently(
    attempt: Callable[[], Awaitable[Result]],
    what: str,
    waits_s: tuple[float, float],
    on_retry: Callable[[], None],
) -> Result:
    """The result of the first attempt that does not raise `NotNowError`.

    Args:
        attempt: Called again and again.
        what: What is being done, for the log.
        waits_s: The first wait and the longest; each is twice the last, and spread by half, so
            that many workers do not come back at the same instant.
        on_retry: Called before each further attempt.
    """
    wait_s, longest_s = waits_s
    while True:
        try:
            return await attempt()
        except NotNowError as error:
            on_retry()
            log.warning("trying again", extra={"what": what, "why": str(error)[:1_000]})
        await asyncio.sleep(wait_s * (0.5 + random.random()))  # noqa: S311 - not a secret
        wait_s = min(wait_s * 2, longest_s)
