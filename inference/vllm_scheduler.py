"""The metering scheduler: `--scheduler-cls inference.vllm_scheduler.MeteredScheduler`.

It is whichever scheduler vLLM would have chosen, with hooks around the methods that every request
and step goes through; nothing in vLLM's tree is patched. Hooks are checked when the engine boots:
a vLLM that lacks one is refused, never metered wrongly. After that, nothing that goes wrong in the
accounting reaches the engine (`inference.engine_books`).
"""

import inspect
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic_ns
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.version import __version__ as vllm_version

from inference.attribution import AttributionModel
from inference.boot_meter import boot_meter, engine_model
from inference.door_records import event_id_in
from inference.engine_books import EngineBooks
from inference.engine_meter import EngineMeter
from inference.engine_records import EngineBoot, RequestFacts
from inference.settings import InferenceSettings
from inference.spool import Spool
from inference.vllm_profile import engine_profile, gpu_type_of, model_name_of
from schemas.clock import Clock, SystemClock
from schemas.errors import SettingsError
from schemas.ids import derived_uuid
from schemas.units import MS_PER_S

HOOKS: Mapping[str, tuple[str, ...]] = {
    "add_request": ("request",),
    "schedule": (),
    "update_from_output": ("scheduler_output", "model_runner_output"),
    "_free_request": ("request",),
    "_preempt_request": ("request",),
    "shutdown": (),
}
"""Methods of vLLM's scheduler that are wrapped, and the parameters that they must begin with."""
OUTPUT_FIELDS: Mapping[type, tuple[str, ...]] = {
    SchedulerOutput: (
        "scheduled_new_reqs",
        "scheduled_cached_reqs",
        "num_scheduled_tokens",
        "scheduled_spec_decode_tokens",
    ),
    CachedRequestData: ("req_ids", "num_computed_tokens"),
    NewRequestData: ("req_id", "num_computed_tokens"),
}
"""What is read in a scheduler's output."""
ENGINES_FOLDER = "engines"


def missing_hooks(scheduler: type) -> list[str]:
    """Hooks that a scheduler class lacks, or whose parameters or output changed."""
    missing = []
    for name, wanted in HOOKS.items():
        method = getattr(scheduler, name, None)
        if not callable(method):
            missing.append(f"{name} is not there")
            continue
        given = tuple(inspect.signature(method).parameters)[1:]
        if given[: len(wanted)] != wanted:
            missing.append(f"{name}{given} does not begin with {wanted}")
    for output, fields in OUTPUT_FIELDS.items():
        lost = set(fields).difference(inspect.signature(output).parameters)
        missing += [f"schedule returns no {output.__name__}.{name}" for name in sorted(lost)]
    return missing


def refuse_unless_hooked(scheduler: type, version: str) -> None:
    """Stop the boot of an engine that cannot be metered.

    Raises:
        SettingsError: If a hook is missing; it names the version of vLLM and the hook.
    """
    missing = missing_hooks(scheduler)
    if missing:
        raise SettingsError(
            f"vLLM {version} cannot be metered: {scheduler.__name__}.{'; '.join(missing)}."
            " Install a vLLM that Rentroll knows (docs/vllm.md), or serve without --scheduler-cls",
        )


def anchored_clock(clock: Clock) -> tuple[Callable[[], int], int]:
    """A clock that never steps: wall time now, plus monotonic time since; and the difference."""
    difference_ns = clock.now_ns() - monotonic_ns()
    return lambda: monotonic_ns() + difference_ns, difference_ns


class MeteringHooks:
    """The mixin; it stands before a scheduler of vLLM in the order of methods."""

    requests: dict[str, Any]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        refuse_unless_hooked(type(self), vllm_version)
        now_ns, difference_ns = anchored_clock(SystemClock())
        start_ns = now_ns()
        super().__init__(*arguments, **named)
        config = named.get("vllm_config", arguments[0] if arguments else None)
        settings = InferenceSettings()
        boot, model = engine_boot(config, settings, start_ns=start_ns, difference_ns=difference_ns)
        profile = engine_profile(config, boot.gpu_type, settings)
        meter = boot_meter(boot, profile, model, settings)
        self._rr_books = open_books(
            boot, meter, settings, now_ns=now_ns, generated=self._rr_generated
        )
        self._rr_books.started()
        self._rr_difference_ns = difference_ns
        self._rr_steps = self._rr_books.steps
        self._rr_reports_max = 2 * settings.queued_steps
        self._rr_finished = False
        self._rr_stop = threading.Event()
        self._rr_marks = threading.Thread(
            target=self._rr_mark_often, args=(settings.mark_ms,), name="rentroll", daemon=True
        )
        self._rr_marks.start()

    def add_request(self, request: Any, *more: Any, **named: Any) -> None:
        known = request.request_id in self.requests
        if not known:
            self._rr_try("add_request", self._rr_add, request)
        super().add_request(request, *more, **named)  # type: ignore[misc]

    # The two of every step call nothing of ours in most steps: that would come out of cold memory.

    def schedule(self, *arguments: Any, **named: Any) -> Any:
        output = super().schedule(*arguments, **named)  # type: ignore[misc]
        try:
            # vLLM makes these for each step and does not change them once it has scheduled it.
            ran, new = output.scheduled_cached_reqs, output.scheduled_new_reqs
            self._rr_steps.append(
                (
                    monotonic_ns() + self._rr_difference_ns,
                    output.num_scheduled_tokens,
                    ran.req_ids,
                    ran.num_computed_tokens,
                    self._rr_new(new) if new else (),
                )
            )
        except Exception as error:
            self._rr_books.failed("schedule", error)
        return output

    def update_from_output(
        self, scheduler_output: Any, model_runner_output: Any, *more: Any, **named: Any
    ) -> Any:
        try:
            now_ns = monotonic_ns() + self._rr_difference_ns
            self._rr_steps.append((now_ns, scheduler_output.num_scheduled_tokens))
            if scheduler_output.scheduled_spec_decode_tokens:
                self._rr_drafts(scheduler_output, model_runner_output)
        except Exception as error:
            self._rr_books.failed("update_from_output", error)
        outputs = super().update_from_output(  # type: ignore[misc]
            scheduler_output, model_runner_output, *more, **named
        )
        if self._rr_finished or len(self._rr_steps) >= self._rr_reports_max:
            self._rr_finished = False
            self._rr_books.write_out()
        return outputs

    def finish_requests(self, *arguments: Any, **named: Any) -> Any:
        finished = super().finish_requests(*arguments, **named)  # type: ignore[misc]
        self._rr_books.write_out()
        return finished

    def _free_request(self, request: Any, *more: Any, **named: Any) -> Any:
        self._rr_try("_free_request", self._rr_finish, request)
        return super()._free_request(request, *more, **named)  # type: ignore[misc]

    def _preempt_request(self, request: Any, *more: Any, **named: Any) -> Any:
        self._rr_try("_preempt_request", self._rr_preempted, request)
        return super()._preempt_request(request, *more, **named)  # type: ignore[misc]

    def shutdown(self) -> None:
        self._rr_stop.set()
        self._rr_books.stop()
        super().shutdown()  # type: ignore[misc]

    # What the hooks tell the books. Reading vLLM's objects may fail as well, so it is guarded.

    def _rr_try(self, hook: str, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception as error:
            self._rr_books.failed(hook, error)

    def _rr_add(self, request: Any) -> None:
        adapter = getattr(request, "lora_request", None)
        self._rr_books.add(
            RequestFacts(
                request=event_id_in(request.request_id),
                engine_request=request.request_id,
                prompt_tokens=request.num_prompt_tokens,
                adapter=adapter.lora_name if adapter is not None else "",
            )
        )

    def _rr_new(self, new: Sequence[Any]) -> list[tuple[str, int]]:
        """Who is in a step for the first time, and what the cache held of it."""
        held = [(one.req_id, one.num_computed_tokens) for one in new]
        for request, tokens in held:
            self._rr_books.cache_read(request, tokens)
        return held

    def _rr_drafts(self, output: Any, results: Any) -> None:
        """Speculative decoding: of a request's drafts, those that were not taken."""
        for one, drafts in output.scheduled_spec_decode_tokens.items():
            request = self.requests.get(one)
            if request is None or request.is_finished():
                continue
            index = results.req_id_to_index[one]
            taken = len(results.sampled_token_ids[index]) if results.sampled_token_ids else 0
            if taken:
                self._rr_books.rejected(one, len(drafts) - (taken - 1))

    def _rr_finish(self, request: Any) -> None:
        self._rr_finished = True
        self._rr_books.finish(
            request.request_id, request.num_output_tokens, str(request.get_finished_reason())
        )

    def _rr_preempted(self, request: Any) -> None:
        computed = request.num_computed_tokens
        if getattr(self, "num_spec_tokens", 0):
            # Drafts in flight may be rejected, and are then no tokens to be computed again.
            computed -= getattr(request, "num_in_flight_tokens", 0)
        self._rr_books.preempted(request.request_id, max(computed, 0))

    def _rr_generated(self, engine_request: str) -> int:
        request = self.requests.get(engine_request)
        return 0 if request is None else int(request.num_output_tokens)

    def _rr_mark_often(self, mark_ms: int) -> None:
        """On a thread of its own: an idle engine waits for requests, and would say nothing."""
        while not self._rr_stop.wait(mark_ms / MS_PER_S):
            self._rr_books.mark()


def engine_boot(
    config: Any, settings: InferenceSettings, *, start_ns: int, difference_ns: int
) -> tuple[EngineBoot, AttributionModel]:
    """Who this engine is, by an id of this boot alone, and how its steps are shared.

    Raises:
        SettingsError: If it is to be calibrated, and its profile is not good.
    """
    host, pid = socket.gethostname(), os.getpid()
    parallel = config.parallel_config
    rank = str(getattr(parallel, "data_parallel_index", 0))
    name = model_name_of(config)
    gpu_type, gpus = gpu_type_of(config, settings), int(parallel.world_size)
    model = engine_model(settings, model=name, gpu_type=gpu_type, gpus=gpus)
    boot = EngineBoot(
        engine=derived_uuid("engine", host, str(pid), rank, str(start_ns)),
        host=host,
        pid=pid,
        model=name,
        replica=settings.replica or f"{host}-{rank}",
        region=settings.region,
        gpu_type=gpu_type,
        gpus=gpus,
        attribution_model=model.name,
        software=f"vllm {vllm_version}",
        start_unix_ns=start_ns,
        unix_less_mono_ns=difference_ns,
        prefills_only=_prefills_only(config),
    )
    return boot, model


def _prefills_only(config: Any) -> bool:
    transfer = getattr(config, "kv_transfer_config", None)
    return transfer is not None and transfer.kv_role == "kv_producer"


def open_books(
    boot: EngineBoot,
    meter: EngineMeter,
    settings: InferenceSettings,
    *,
    now_ns: Callable[[], int],
    generated: Callable[[str], int],
) -> EngineBooks:
    """Begin the books of an engine in a spool of its own.

    Raises:
        SpoolError: If there is no writing there: better no engine than one that nobody meters.
    """
    spool = Spool(settings.host_folder / ENGINES_FOLDER / boot.engine, settings)
    return EngineBooks(boot, meter, spool, settings, now_ns=now_ns, generated=generated)


class _MeteredSyncScheduler(MeteringHooks, Scheduler):
    """vLLM's scheduler, metered."""


class _MeteredAsyncScheduler(MeteringHooks, AsyncScheduler):
    """vLLM's scheduler of overlapping steps, metered."""


class MeteredScheduler:
    """What `--scheduler-cls` names: makes the metered form of the scheduler vLLM would choose."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        config: Any = named.get("vllm_config", arguments[0] if arguments else None)
        asynchronous = bool(getattr(config.scheduler_config, "async_scheduling", False))
        chosen = _MeteredAsyncScheduler if asynchronous else _MeteredSyncScheduler
        return chosen(*arguments, **named)
