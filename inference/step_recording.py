"""Records everything that an engine's meter is told, so that an auditor can run the ledger again.

A recording is a text file: a line that says whose meter it is, then one JSON array per report, in
the order in which the meter took them. `replay` gives the same reports to a new meter: parts and
intervals come out the same to the bit, on any machine, or for another attribution model as that
one has them.

Recording never fails the metering: where the disk refuses a line, or the file has reached its
bound, it ends with the reports before. A torn last line, of an engine that was killed, is left out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from inference.attribution import AttributionModel, EngineProfile, StepWork
from inference.engine_account import FinishedPart, Interval
from inference.engine_meter import EngineMeter
from schemas.errors import InputFileError, SettingsError

FORMAT = "rentroll.steps.1"


class MeterFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose meter it is: what `EngineMeter` is made of, and the name of its attribution model."""

    format: str = FORMAT
    model: str
    gpu_type: str
    gpus: int
    software: str
    profile: EngineProfile
    attribution_model: str
    start_ns: int
    stall_cap_ns: int
    interval_ns: int

    def of_meter(self) -> dict[str, Any]:
        """What an `EngineMeter` is made of, but for its attribution model."""
        return {
            "gpus": self.gpus,
            "profile": self.profile,
            "start_ns": self.start_ns,
            "stall_cap_ns": self.stall_cap_ns,
            "interval_ns": self.interval_ns,
        }


class TimedStep(NamedTuple):
    """A step that ended, and how long the engine was busy with it."""

    work: StepWork
    busy_ns: int


class Recording:
    """The file, while it is written. One caller at a time, as for the meter.

    Args:
        path: Of the file; its folder is made.
        facts: Its first line.
        max_bytes: Where it ends at the latest.
    """

    def __init__(self, path: Path, facts: MeterFacts, *, max_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._left_bytes = max_bytes
        self._encoder = msgspec.json.Encoder()
        self._file = path.open("xb", buffering=1 << 16)
        self.complete = True
        self.write(facts)

    def write(self, report: object) -> None:
        """Append a line; after the first that cannot be written there are no more."""
        line = self._encoder.encode(report) + b"\n"
        self._left_bytes -= len(line)
        self._try(self._file.write if self._left_bytes >= 0 else self._end, line)

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._try(self._file.flush)

    def close(self) -> None:
        """No more reports."""
        self._try(self._file.flush)
        self.complete = False
        with suppress(OSError):
            self._file.close()

    def _end(self, _: bytes) -> None:
        self.close()

    def _try(self, action: Callable[..., object], *arguments: bytes) -> None:
        if self.complete:
            try:
                action(*arguments)
            except OSError:
                self.complete = False


class RecordingMeter(EngineMeter):
    """A meter that writes down what it is told, then does as any meter.

    Args:
        facts: What it is made of.
        model: The attribution model that they name.
        recording: Where to.
    """

    def __init__(self, facts: MeterFacts, model: AttributionModel, recording: Recording) -> None:
        super().__init__(model=model, **facts.of_meter())
        self._recording = recording

    def started(self, now_ns: int) -> None:
        self._recording.write(("started", now_ns))
        super().started(now_ns)

    def add(self, request: str, now_ns: int, *, prompt_tokens: int, admitted_ms: int) -> None:
        self._recording.write(("add", request, now_ns, prompt_tokens, admitted_ms))
        super().add(request, now_ns, prompt_tokens=prompt_tokens, admitted_ms=admitted_ms)

    def scheduled(self, now_ns: int, requests: Sequence[str], work: StepWork) -> None:
        self._recording.write(("scheduled", now_ns, requests, work))
        super().scheduled(now_ns, requests, work)

    def step_done(self, now_ns: int) -> None:
        self._recording.write(("step_done", now_ns))
        super().step_done(now_ns)

    def preempted(self, request: str, now_ns: int, *, computed: int) -> None:
        self._recording.write(("preempted", request, now_ns, computed))
        super().preempted(request, now_ns, computed=computed)

    def finish(
        self, request: str, now_ns: int, *, generated_tokens: int, drafts_rejected: int = 0
    ) -> None:
        self._recording.write(("finish", request, now_ns, generated_tokens, drafts_rejected))
        super().finish(
            request, now_ns, generated_tokens=generated_tokens, drafts_rejected=drafts_rejected
        )

    def snapshot(self, now_ns: int) -> None:
        self._recording.write(("snapshot", now_ns))
        super().snapshot(now_ns)
        self._recording.flush()

    def advance(self, now_ns: int) -> None:
        self._recording.write(("advance", now_ns))
        super().advance(now_ns)

    def so_far(self, now_ns: int) -> Interval:
        # It brings the account up to that time, so it may end an interval.
        self._recording.write(("advance", now_ns))
        self._recording.flush()
        return super().so_far(now_ns)


def replay(path: Path, model: AttributionModel) -> Iterator[FinishedPart | Interval]:
    """Every part and interval of a recording, once more.

    Args:
        path: The recording.
        model: Whose shares to compute; those of the recording come from the one that it names.

    Raises:
        InputFileError: If the file is no recording, or a line is none of a meter's reports.
    """
    facts, reports = read_recording(path)
    meter = EngineMeter(model=model, **facts.of_meter())
    for number, report in reports:
        try:
            _tell(meter, report)
        except (KeyError, TypeError, ValueError) as error:
            raise InputFileError(f"{path}:{number}: {report!r} is no report: {error}") from error
        yield from meter.take()


def timed_steps(path: Path) -> Iterator[TimedStep]:
    """The steps of a recording that ended, with the time that each kept the engine busy.

    Raises:
        InputFileError: As `replay` does.
    """
    _, reports = read_recording(path)
    in_flight: list[tuple[int, StepWork]] = []
    free_ns = 0
    for number, report in reports:
        match report:
            case ["scheduled", int(now_ns), list(), [int(passes), tokens, computed]]:
                in_flight.append((now_ns, StepWork(passes, tokens, computed)))
            case ["step_done", int(now_ns)]:
                if not in_flight:
                    raise InputFileError(f"{path}:{number}: a step ended, but none was launched")
                launched_ns, work = in_flight.pop(0)
                busy_ns = now_ns - max(launched_ns, free_ns)
                free_ns = max(free_ns, now_ns)
                if work.tokens and busy_ns > 0:
                    yield TimedStep(work, busy_ns)
            case _:
                pass


def read_recording(path: Path) -> tuple[MeterFacts, Iterator[tuple[int, list[Any]]]]:
    """Whose meter it was, and its reports with their line numbers.

    Raises:
        InputFileError: If the file cannot be read, or its first line is not as it must be.
    """
    try:
        with path.open("rb") as file:
            facts = msgspec.json.decode(file.readline(), type=MeterFacts)
    except (OSError, msgspec.DecodeError, SettingsError) as error:
        raise InputFileError(f"{path}:1: no recording of an engine's steps: {error}") from error
    if facts.format != FORMAT:
        raise InputFileError(f"{path}:1: format is {facts.format!r}, this reads {FORMAT!r}")
    return facts, _reports(path)


def _reports(path: Path) -> Iterator[tuple[int, list[Any]]]:
    decoder = msgspec.json.Decoder(list[Any])
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 or not line.endswith(b"\n"):
                continue
            try:
                yield number, decoder.decode(line)
            except msgspec.DecodeError as error:
                raise InputFileError(f"{path}:{number}: {error}") from error


def _tell(meter: EngineMeter, report: list[Any]) -> None:
    match report:
        case ["scheduled", now_ns, requests, [passes, tokens, computed]]:
            meter.scheduled(now_ns, requests, StepWork(passes, tokens, computed))
        case [("step_done" | "advance" | "started" | "snapshot") as name, now_ns]:
            getattr(meter, name)(now_ns)
        case ["add", request, now_ns, prompt, admitted_ms]:
            meter.add(request, now_ns, prompt_tokens=prompt, admitted_ms=admitted_ms)
        case ["finish", request, now_ns, generated, rejected]:
            meter.finish(request, now_ns, generated_tokens=generated, drafts_rejected=rejected)
        case ["preempted", request, now_ns, computed]:
            meter.preempted(request, now_ns, computed=computed)
        case _:
            raise ValueError("none of a meter's reports")
