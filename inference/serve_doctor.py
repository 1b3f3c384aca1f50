"""Checks whether this machine can serve a model that is metered and billed."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping

import msgspec

from inference.door_keys import KeySnapshot
from inference.serve_child import read_run
from inference.serve_command import VllmPython, find_vllm
from inference.serve_supervisor import SERVE_FOLDER
from inference.settings import MIB, InferenceSettings
from inference.vllm_environment import build_site
from infra.settings import inherited_environment
from infra.stack.doctor import Check
from schemas.clock import Clock
from schemas.errors import ServerError
from schemas.units import MS_PER_S, NS_PER_MS

CHECK_S = 300
_ERROR_LINES = 3


def examine_serving(settings: InferenceSettings, clock: Clock) -> Iterator[Check]:
    """Every check, each as soon as it is known; importing vLLM takes seconds."""
    yield from _vllm(settings)
    running = read_run(settings.host_folder / SERVE_FOLDER)
    serves = running.supervisor is not None and running.supervisor.is_alive()
    yield _snapshot(settings, clock, serves=serves)
    yield _spool_folder(settings)
    if serves:
        yield Check("Served model", ok=True, found=running.base_url)


def _vllm(settings: InferenceSettings) -> Iterator[Check]:
    try:
        vllm = find_vllm(settings)
    except ServerError:
        # Whoever bills what others serve needs none.
        yield Check("vLLM", ok=True, found="not installed; `serve-model` needs it (`make vllm`)")
        return
    found, failure = _ask(settings, vllm)
    if not found:
        yield Check("vLLM", ok=False, found=failure, remedy=f"mend or reinstall {vllm.python}")
        return
    yield Check("vLLM", ok=True, found=f"{found['version']} ({vllm.python})")
    remedy = "install a vLLM that Rentroll knows; docs/decisions/0010 names the hooks"
    for name, part in (("Metered scheduler", "scheduler"), ("Door", "door")):
        wrong = found[part]
        yield Check(name, ok=not wrong, found=wrong or "every hook is there", remedy=remedy)


def _ask(settings: InferenceSettings, vllm: VllmPython) -> tuple[Mapping[str, str], str]:
    """What the vLLM says about itself, or why it does not."""
    environment = inherited_environment()
    if vllm.needs_site:
        site = settings.host_folder.absolute() / SERVE_FOLDER / "site"
        environment["PYTHONPATH"] = str(build_site(site))
    try:
        said = subprocess.run(  # noqa: S603 - our own module
            [str(vllm.python), "-P", "-m", "inference.vllm_check"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=CHECK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, str(error)
    if said.returncode:
        return {}, " / ".join(said.stderr.strip().splitlines()[-_ERROR_LINES:])
    return json.loads(said.stdout.splitlines()[-1]), ""


def _snapshot(settings: InferenceSettings, clock: Clock, *, serves: bool) -> Check:
    path, name = settings.door_keys_file, "Snapshot of keys"
    remedy = "see the sidecar's log, or write one: `rentroll keys export`"
    try:
        snapshot = msgspec.json.decode(path.read_bytes(), type=KeySnapshot)
    except FileNotFoundError:
        return Check(name, ok=not serves, found=f"no {path} yet", remedy=remedy)
    except (OSError, ValueError) as error:
        return Check(name, ok=False, found=f"{path}: {error}", remedy=remedy)
    age_s = (clock.now_ns() // NS_PER_MS - snapshot.written_at_ms) // MS_PER_S
    fresh = age_s <= settings.door_keys_max_age_s
    when = f"{len(snapshot.keys)} keys, written {age_s} s ago"
    state = "" if fresh else ": too old, doors admit nobody" if serves else "; not in use"
    return Check(name, ok=fresh or not serves, found=f"{when}{state}", remedy=remedy)


def _spool_folder(settings: InferenceSettings) -> Check:
    folder = settings.host_folder.absolute()
    above = next(one for one in (folder, *folder.parents) if one.is_dir())
    free = shutil.disk_usage(above).free
    # An engine and a door, each up to its bound.
    needed = 2 * settings.spool_max_bytes
    writable = os.access(above, os.W_OK | os.X_OK)
    return Check(
        "Spool folder",
        ok=writable and free >= needed,
        found=f"{folder} {'is writable' if writable else 'cannot be written by this user'},"
        f" {free // MIB} MiB free",
        remedy=f"make it writable, free {needed // MIB} MiB, lower"
        " RENTROLL_INFERENCE_SPOOL_MAX_BYTES, or set RENTROLL_INFERENCE_HOST_FOLDER",
    )
