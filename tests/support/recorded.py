"""A simulated engine whose meter records: the mix, the recording, and what the meter said."""

from pathlib import Path

from bench.attribution_mixes import START_NS, Mix, planned_requests
from inference.attribution_models import attribution_model
from inference.engine_account import FinishedPart, Interval
from inference.simulate.catalogue import CATALOGUE
from inference.simulate.engine import EngineLimits, SimulatedEngine
from inference.step_recording import MeterFacts, Recording, RecordingMeter
from schemas.units import NS_PER_S

MAX_BYTES = 1 << 30


def recorded_run(
    mix: Mix, path: Path, *, seed: int = 5, max_bytes: int = MAX_BYTES
) -> list[FinishedPart | Interval]:
    """Serve a mix on an engine that records to `path`; what its meter said."""
    hardware = CATALOGUE[mix.model]
    requests, _ = planned_requests(mix, seed)
    model = attribution_model("fixed_marginal")
    facts = MeterFacts(
        model=mix.model,
        gpu_type=hardware.gpu_type,
        gpus=hardware.gpus,
        software="simulate",
        profile=hardware.profile,
        attribution_model=model.name,
        start_ns=START_NS,
        stall_cap_ns=NS_PER_S,
        interval_ns=2 * NS_PER_S,
    )
    recording = Recording(path, facts, max_bytes=max_bytes)
    meter = RecordingMeter(facts, model, recording)
    meter.started(START_NS)
    limits = EngineLimits(kv_capacity_tokens=hardware.kv_capacity_tokens // 4)
    said: list[FinishedPart | Interval] = []
    for _ in SimulatedEngine(meter, hardware.profile, limits, requests).run():
        said += meter.take()
    meter.snapshot(START_NS + mix.duration_s * 100 * NS_PER_S)
    recording.close()
    return said + meter.take()
