"""Runs what installs: again where a network failed, an error that says what to do otherwise."""

import subprocess
import time
from collections.abc import Callable

from schemas.errors import ServerError

NETWORK_SIGNS = (
    "error sending request",
    "Failed to fetch",
    "Failed to download",
    "operation timed out",
    "connection closed",
    "Connection reset",
)
"""What uv says of an index that does not answer, or not to the end."""
_NO_NETWORK = "the package index cannot be reached: check network and proxy"
REMEDIES = (
    (
        "torch==",
        "PyTorch's CPU wheel was not found: set UV_FIND_LINKS to a folder or page that has it",
    ),
    ("No interpreter found", "install that Python, or let uv download it"),
    ("hash", "a file is not the one that was pinned. Do not go on; look at where it came from"),
    ("No space left", "the disk is full: set RENTROLL_INFERENCE_CACHE_FOLDER to another one"),
    *((sign, _NO_NETWORK) for sign in NETWORK_SIGNS),
)
ATTEMPTS = 4
_INSTALL_S = 3_600
_ERROR_LINES = 12
Say = Callable[[str], None]


def run_installer(
    command: list[str],
    what: str = "the CPU engine",
    *,
    say: Say = lambda _: None,
    pause_s: float = 10,
) -> None:
    """Run a command that installs or prepares something; uv keeps what it has fetched.

    Args:
        command: With our own arguments.
        what: Named where it fails.
        say: Is told of every attempt that a network broke.
        pause_s: After the first of these, longer each time.

    Raises:
        ServerError: If it fails; the message holds its last lines and what to do.
    """
    error = ""
    for attempt in range(1, ATTEMPTS + 1):
        error = _run(command, what)
        if not error:
            return
        if attempt == ATTEMPTS or not any(sign in error for sign in NETWORK_SIGNS):
            break
        say(f"the package index did not answer; attempt {attempt + 1} of {ATTEMPTS}")
        time.sleep(attempt * pause_s)
    told = "\n  ".join(error.strip().splitlines()[-_ERROR_LINES:])
    raise ServerError(f"{what} cannot be installed: {remedy_for(error)}\n  {told}")


def remedy_for(text: str) -> str:
    """What to do, by what the installer says."""
    for sign, remedy in REMEDIES:
        if sign in text:
            return remedy
    return "this command failed; mend what it says and try again"


def _run(command: list[str], what: str) -> str:
    """What it said as it failed; empty if it did not."""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command with our own arguments
            command, capture_output=True, text=True, check=False, timeout=_INSTALL_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"{what} cannot be installed: {error}") from error
    if not done.returncode:
        return ""
    return (done.stderr or done.stdout).strip() or f"status {done.returncode}"
