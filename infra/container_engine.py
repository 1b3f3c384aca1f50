"""Whether a container engine, and Docker Compose with it, answers on this machine."""

import shutil
import subprocess

ANSWER_TIMEOUT_S = 10


def answers(docker: str = "docker") -> bool:
    """Whether an engine runs: the `docker` command alone, without its engine, is not one."""
    return _succeeds(docker, "info", "--format", "{{.ServerVersion}}")


def compose_answers(docker: str = "docker") -> bool:
    """Whether an engine runs and the command knows Compose."""
    return answers(docker) and _succeeds(docker, "compose", "version")


def _succeeds(docker: str, *arguments: str) -> bool:
    """Whether the command exists and ends well in time."""
    path = shutil.which(docker)
    if path is None:
        return False
    try:
        done = subprocess.run(  # noqa: S603 - a path that `which` found
            [path, *arguments], capture_output=True, timeout=ANSWER_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    # `docker info` of some versions ends well although it only reached its own client.
    return done.returncode == 0 and bool(done.stdout.strip())
