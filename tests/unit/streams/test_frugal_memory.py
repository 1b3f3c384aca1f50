"""The worker's allocators: chosen before Arrow is there, unless the environment has chosen."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
from streams.frugal_memory import allocate_frugally
allocate_frugally()
import pyarrow
print(pyarrow.default_memory_pool().backend_name)
"""


@pytest.mark.parametrize("asked", ["", "system"])
def test_arrow_uses_jemalloc_unless_the_environment_says_otherwise(asked: str) -> None:
    environment = {name: text for name, text in os.environ.items() if "ARROW" not in name}
    environment |= {"ARROW_DEFAULT_MEMORY_POOL": asked} if asked else {}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == (asked or "jemalloc")
    assert not done.stderr
