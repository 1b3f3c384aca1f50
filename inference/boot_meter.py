"""The meter of an engine's boot, as the settings want it: which model weighs, and who records."""

from inference.attribution import AttributionModel, EngineProfile
from inference.attribution_models import CALIBRATED, attribution_model
from inference.calibration import Calibrated, load_profile, refuse_other_engine
from inference.engine_meter import EngineMeter
from inference.engine_records import EngineBoot
from inference.settings import InferenceSettings
from inference.step_recording import MeterFacts, Recording, RecordingMeter
from schemas.errors import SettingsError
from schemas.units import NS_PER_S

RECORDING_SUFFIX = ".steps.jsonl"


def engine_model(
    settings: InferenceSettings, *, model: str, gpu_type: str, gpus: int
) -> AttributionModel:
    """How the steps of this engine are shared.

    Raises:
        SettingsError: If the settings want a calibrated model and its profile is not there, is
            malformed, or was measured on another engine.
    """
    if settings.attribution != CALIBRATED:
        return attribution_model(settings.attribution)
    if settings.calibration_file is None:
        raise SettingsError(
            "attribution is `calibrated`, but RENTROLL_INFERENCE_CALIBRATION_FILE names no profile"
        )
    profile = load_profile(settings.calibration_file)
    refuse_other_engine(profile, model=model, gpu_type=gpu_type, gpus=gpus)
    return Calibrated(profile)


def boot_meter(
    boot: EngineBoot, profile: EngineProfile, model: AttributionModel, settings: InferenceSettings
) -> EngineMeter:
    """A meter that begins with the boot; it records where the settings name a folder for that.

    Raises:
        SettingsError: If that folder cannot be written.
    """
    facts = MeterFacts(
        model=boot.model,
        gpu_type=boot.gpu_type,
        gpus=boot.gpus,
        software=boot.software,
        profile=profile,
        attribution_model=boot.attribution_model,
        start_ns=boot.start_unix_ns,
        stall_cap_ns=settings.step_cap_ns,
        interval_ns=settings.interval_s * NS_PER_S,
    )
    folder = settings.recorded_steps_folder
    if folder is not None:
        path = folder.expanduser() / f"{boot.engine}{RECORDING_SUFFIX}"
        try:
            recording = Recording(path, facts, max_bytes=settings.recorded_steps_max_bytes)
        except OSError as error:
            raise SettingsError(f"recorded_steps_folder {path.parent}: {error}") from error
        return RecordingMeter(facts, model, recording)
    return EngineMeter(model=model, **facts.of_meter())
