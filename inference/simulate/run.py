"""The simulation from file to outboxes: plan, run the replicas side by side, count, report."""

import gc
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from inference.attribution_models import attribution_model
from inference.engine_account import FinishedPart
from inference.engine_meter import EngineMeter
from inference.settings import InferenceSettings
from inference.simulate.assign import DEFAULT_ASSIGNMENT, read_assignment
from inference.simulate.emitted import Counts, Emitted, EmittedSource
from inference.simulate.engine import EngineLimits, SimulatedEngine
from inference.simulate.fleet import read_fleet, workload_of_fleet
from inference.simulate.plan import (
    Plan,
    PlannedReplica,
    Workload,
    make_plan,
    workload_of_trace,
)
from inference.simulate.processes import Result, Work, side_by_side, worker_count
from inference.simulate.replica import run_replica
from inference.simulate.timeline import AS_RECORDED, ending_at, onto_month
from inference.simulate.trace import read_trace
from schemas.clock import Clock
from schemas.periods import Period
from schemas.units import NS_PER_S

SMALL_REQUESTS = 4_000
"""Below this, starting processes costs more than it saves."""
SAMPLE_TRACE = DEFAULT_ASSIGNMENT.parent / "azure_llm_conv_sample.csv"
REPORT_FILE = "emitted.json"

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: unknown)."""


def no_progress(what: str, done: int, total: int) -> None:
    """For whoever does not look."""


def plan_trace(
    path: Path,
    *,
    seed: int,
    assignment: Path | None = None,
    when: Period | Clock | None = None,
    settings: InferenceSettings | None = None,
    on_progress: OnProgress = no_progress,
) -> Plan:
    """Read a trace and plan its simulation.

    Args:
        path: The CSV file.
        seed: Decides owners, models, tiers and prefix-cache hits.
        assignment: Who the rows belong to; the default is in the package.
        when: A month to map the trace on, a clock for it to end now, or None for as recorded.
        settings: Intervals, attribution, bounds.
        on_progress: Called as it goes.

    Raises:
        TraceFileError: If the trace is wrong anywhere.
        FleetFileError: If the assignment is.
    """
    roster = read_assignment(assignment or DEFAULT_ASSIGNMENT)
    with _uncollected():
        trace = read_trace(path, on_rows=lambda rows: on_progress("reading the trace", rows, 0))
        workload = workload_of_trace(trace, seed=seed, roster=roster)
        return plan_workload(workload, when, settings or InferenceSettings(), on_progress)


def plan_fleet(
    path: Path,
    *,
    seed: int,
    when: Period | Clock | None = None,
    settings: InferenceSettings | None = None,
    on_progress: OnProgress = no_progress,
) -> Plan:
    """Read a fleet file and plan its simulation; see `plan_trace`.

    Raises:
        FleetFileError: If the file is wrong anywhere.
    """
    fleet = read_fleet(path)
    with _uncollected():
        workload = workload_of_fleet(fleet, seed=seed)
        return plan_workload(workload, when, settings or InferenceSettings(), on_progress)


@contextmanager
def _uncollected() -> Iterator[None]:
    """A plan is a hundred thousand small things that all live on: nothing to collect meanwhile."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def plan_workload(
    workload: Workload,
    when: Period | Clock | None,
    settings: InferenceSettings,
    on_progress: OnProgress,
) -> Plan:
    """Give a workload its place in time."""
    timeline = AS_RECORDED
    arrivals = workload.arrivals
    if arrivals and isinstance(when, Period):
        timeline = onto_month(arrivals[0].recorded_ns, arrivals[-1].recorded_ns, when)
    elif arrivals and when is not None and not isinstance(when, Period):
        # Moving everything by the same time changes nothing in the engines, so a dry run knows
        # when the last request will finish.
        dry = make_plan(workload, timeline=AS_RECORDED, settings=settings)
        finish_ns = _last_finish_ns(dry, on_progress)
        timeline = ending_at(finish_ns, when.now_ns())
    return make_plan(workload, timeline=timeline, settings=settings)


def simulate(plan: Plan, folder: Path, *, on_progress: OnProgress = no_progress) -> Emitted:
    """Run a plan into outboxes below `folder`, one per replica, complete and closed.

    What an earlier run of the same plan left there is replaced: it wrote the same bytes, or was
    interrupted.

    Raises:
        SpoolError: If the disk fails or a bound is reached.
    """
    began_s = time.monotonic()
    home = folder / plan.run_key[:16]
    if home.exists():
        shutil.rmtree(home)
    counts, sources = Counts(), list[EmittedSource]()
    if plan.requests:
        work = partial(_run, plan.opened_ms, plan.workload.roster.region, home, plan.settings)
        for replica_counts, source in _spread(plan, work, "simulating", on_progress):
            counts.add(replica_counts)
            sources.append(source)
    home.mkdir(parents=True, exist_ok=True)
    emitted = Emitted(
        folder=home,
        run_key=plan.run_key,
        counts=counts,
        sources=tuple(sources),
        report=_described(plan),
        seconds=time.monotonic() - began_s,
    )
    (home / REPORT_FILE).write_text(json.dumps(emitted.as_json(), indent=2) + "\n")
    return emitted


def _run(
    opened_ms: int,
    region: str,
    home: Path,
    settings: InferenceSettings,
    replica: PlannedReplica,
    on_requests: Callable[[int], None],
) -> tuple[Counts, EmittedSource]:
    return run_replica(
        replica,
        opened_ms=opened_ms,
        region=region,
        folder=home / replica.name,
        settings=settings,
        on_requests=on_requests,
    )


def _dry_run(
    settings: InferenceSettings, replica: PlannedReplica, on_requests: Callable[[int], None]
) -> int:
    """When the last request of a replica finishes, in Unix ns; 0 if it has none."""
    requests = replica.requests()
    if not requests:
        return 0
    hardware = replica.model.hardware
    first_ns = requests[0].admitted_ns
    meter = EngineMeter(
        gpus=hardware.gpus,
        profile=hardware.profile,
        model=attribution_model("equal"),
        start_ns=first_ns,
        stall_cap_ns=settings.step_cap_ns,
        interval_ns=settings.interval_s * NS_PER_S,
    )
    limits = EngineLimits(kv_capacity_tokens=hardware.kv_capacity_tokens)
    last_ns = first_ns
    for refused in SimulatedEngine(meter, hardware.profile, limits, requests).run():
        for output in meter.take():
            if isinstance(output, FinishedPart):
                last_ns = max(last_ns, output.finished_ns)
        if refused is not None:
            last_ns = max(last_ns, refused.admitted_ns)
    on_requests(len(requests))
    return last_ns


def _last_finish_ns(plan: Plan, on_progress: OnProgress) -> int:
    work = partial(_dry_run, plan.settings)
    return max(_spread(plan, work, "finding the end", on_progress))


def _spread(
    plan: Plan, work: Work[PlannedReplica, Result], what: str, on_progress: OnProgress
) -> list[Result]:
    """Do every replica's work, the busiest ones spread first; results in the plan's order."""
    small = plan.requests < SMALL_REQUESTS
    workers = 1 if small else min(worker_count(plan.settings.simulate_workers), len(plan.replicas))
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0] * workers
    for index in sorted(
        range(len(plan.replicas)), key=lambda index: -len(plan.replicas[index].arrivals)
    ):
        least = loads.index(min(loads))
        shares[least].append(index)
        loads[least] += len(plan.replicas[index].arrivals)
    done = 0

    def on_amount(amount: int) -> None:
        nonlocal done
        done += amount
        on_progress(what, done, plan.requests)

    tasks = [[plan.replicas[index] for index in share] for share in shares]
    results: list[Result | None] = [None] * len(plan.replicas)
    for share, found in zip(shares, side_by_side(tasks, work, on_amount), strict=True):
        for index, result in zip(share, found, strict=True):
            results[index] = result
    return [result for result in results if result is not None]


def _described(plan: Plan) -> dict[str, object]:
    """What the report says about how the figures came about."""
    return {
        "input": plan.workload.name,
        "input_sha256": plan.workload.sha256,
        "seed": plan.workload.seed,
        "assignment": plan.workload.roster.described(),
        "timeline": plan.timeline.described(),
        "attribution_model": attribution_model(plan.settings.attribution).name,
    }
