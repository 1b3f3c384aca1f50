"""Whether a container engine answers, asked once per run."""

import functools

from infra.container_engine import answers


@functools.cache
def container_engine_answers() -> bool:
    """Whether tests may start containers."""
    return answers()
