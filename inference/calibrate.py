"""Measures what steps cost on this machine's engine: runs it, times its steps, fits a profile.

The engine runs in a process of vLLM's own Python, with the metering scheduler recording into a
folder that is thrown away; `inference.vllm_calibrate` drives it there.
"""

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from inference.boot_meter import RECORDING_SUFFIX
from inference.calibration import CalibrationProfile, calibrate, save_profile
from inference.serve_command import CPU_DEFAULTS, VllmPython, find_vllm
from inference.settings import InferenceSettings
from inference.step_recording import read_recording, timed_steps
from inference.vllm_environment import build_site
from infra.settings import inherited_environment
from schemas.errors import ServerError, SettingsError

MODULE = "inference.vllm_calibrate"
_ERROR_LINES = 12
_WARM_UP = "warmed up after steps="
_ROUND = "round "
_LONGEST_S = 3_600
Say = Callable[[str], None]


def calibrate_engine(
    model: str, options: Sequence[str], out: Path, *, settings: InferenceSettings, say: Say
) -> CalibrationProfile:
    """Measure an engine and save its profile.

    Args:
        model: As vLLM takes it.
        options: Of `vllm serve`, those that the model will be served with.
        out: Where the profile goes.
        settings: Of the host.
        say: Is told how far it is, line by line.

    Raises:
        ServerError: If there is no vLLM, or the engine does not run; its last log lines are in it.
        SettingsError: If no cost fits what was measured.
    """
    vllm = find_vllm(settings)
    with tempfile.TemporaryDirectory(prefix="rentroll-calibrate-") as name:
        folder = Path(name)
        skipped = _drive(vllm, [model, *options], folder, settings, say)
        recordings = sorted((folder / "steps").glob(f"*{RECORDING_SUFFIX}"))
        if len(recordings) != 1:
            raise SettingsError(
                f"calibration measures one engine, {len(recordings)} ran: leave out"
                " --data-parallel-size"
            )
        facts, _ = read_recording(recordings[0])
        profile = calibrate(
            list(timed_steps(recordings[0]))[skipped:],
            model=facts.model,
            gpu_type=facts.gpu_type,
            gpus=facts.gpus,
            software=facts.software,
        )
    save_profile(out, profile)
    return profile


def _drive(
    vllm: VllmPython, call: Sequence[str], folder: Path, settings: InferenceSettings, say: Say
) -> int:
    """Run the engine until it has been driven through everything; the steps that warmed it up."""
    log = folder / "engine.log"
    command = [str(vllm.python), "-P", "-m", MODULE, *call]
    skipped = 0
    with log.open("wb") as errors:
        engine = subprocess.Popen(  # noqa: S603 - our own module
            command,
            env=_environment(vllm, folder, settings),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            for line in engine.stdout or ():
                if line.startswith(_WARM_UP):
                    skipped = int(line.removeprefix(_WARM_UP))
                if line.startswith(_ROUND):
                    say(line.strip())
            status = engine.wait(timeout=_LONGEST_S)
        finally:
            if engine.poll() is None:
                engine.kill()
                engine.wait()
    if status:
        told = "\n  ".join(log.read_text(errors="replace").strip().splitlines()[-_ERROR_LINES:])
        raise ServerError(
            f"the engine that was to be measured ended with status {status}\n  {told}"
        )
    return skipped


def _environment(vllm: VllmPython, folder: Path, settings: InferenceSettings) -> dict[str, str]:
    own = settings.model_copy(
        update={
            "attribution": "equal",
            "calibration_file": None,
            "host_folder": folder / "host",
            "recorded_steps_folder": folder / "steps",
        }
    )
    environment = {
        name: text
        for name, text in inherited_environment().items()
        if not name.startswith("RENTROLL_")
    }
    if vllm.needs_site:
        environment = {
            **CPU_DEFAULTS,
            **environment,
            "PYTHONPATH": str(build_site(folder / "site")),
        }
    return {
        **environment,
        "VLLM_NO_USAGE_STATS": "1",
        # In one process the engine ends in order, and its recording is whole.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # There is no door in front of it.
        "VLLM_PLUGINS": "",
        **own.as_environment(),
    }
