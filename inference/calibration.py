"""The attribution model `calibrated.1`: what a step costs on this very engine, measured. Pure.

A step of `n` requests over `p` passes is taken to last
    p*pass + p*n*request + tokens*token + reads*read + pairs*pair
with the tokens computed in it, the tokens of KV cache read, and the (token, context token) pairs of
attention. The five coefficients are integer femtoseconds, none negative, fitted to timed steps by
least squares of the relative error (so that long steps do not outshout short ones), exactly, in
integers and fractions: the same steps give the same profile. Of this cost the Shapley value is
simple, and it is how shares are weighed: `p*pass / n` each, and everyone's own terms.

Against `fixed_marginal` it knows the engine's kernels and host, and takes a step for a sum where a
GPU overlaps reading with arithmetic. The name in events ends in the profile's hash: another
profile, be it of one digit, is another model.
"""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from inference.attribution import EngineProfile, StepWork, reads_and_pairs
from inference.step_recording import TimedStep
from schemas.errors import SettingsError

FORMAT = "rentroll.calibration.1"
STEPS_MIN = 40
ERROR_MAX_PPM = 300_000
"""The median relative error of the fit; above, the profile says nothing about the engine."""
FS_MAX = 10**16
"""Ten seconds: no pass, token or pair takes longer."""
OUTLIER_FACTOR = 4
"""Steps that are off by more than so many times the median are left out of a second fit."""
_FS_PER_NS = 1_000_000
_SCALE = 10**15
_PPM = 1_000_000
_HASH_DIGITS = 16
_TERMS = 5


class StepTerms(NamedTuple):
    """How often each coefficient counts in a step."""

    passes: int
    sequences: int
    tokens: int
    reads: int
    pairs: int


class CalibrationProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The measured cost of an engine's steps, and what it was measured on."""

    format: str = FORMAT
    model: str
    gpu_type: str
    gpus: int
    software: str
    pass_fs: int
    request_fs: int
    token_fs: int
    read_fs: int
    pair_fs: int
    steps: int
    median_error_ppm: int

    def coefficients(self) -> tuple[int, ...]:
        """In the order of `StepTerms`."""
        return (self.pass_fs, self.request_fs, self.token_fs, self.read_fs, self.pair_fs)

    def step_ns(self, work: StepWork) -> int:
        """How long a step should take."""
        return _cost_fs(self.coefficients(), terms_of(work)) // _FS_PER_NS

    def digest(self) -> str:
        """SHA-256 of the profile as JSON, its fields in order."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class SealedProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a profile file holds."""

    profile: CalibrationProfile
    sha256: str


class Calibrated:
    """The attribution model of a profile."""

    def __init__(self, profile: CalibrationProfile) -> None:
        self.profile = profile
        self.name = f"calibrated.1@{profile.digest()[:_HASH_DIGITS]}"

    def weights(
        self, profile: EngineProfile, gpus: int, total_ns: int, step: StepWork
    ) -> list[int]:
        """By the measured costs; what the engine's shape suggests does not count."""
        del profile, gpus, total_ns
        own = self.profile
        count = len(step.tokens)
        equal = step.passes * (own.pass_fs + count * own.request_fs)
        token, read, pair = count * own.token_fs, count * own.read_fs, count * own.pair_fs
        reads, pairs = reads_and_pairs(step)
        return [
            equal + token * chunk + read * seen + pair * looked
            for chunk, seen, looked in zip(step.tokens, reads, pairs, strict=True)
        ]


def terms_of(work: StepWork) -> StepTerms:
    """How often each coefficient counts in a step."""
    reads, pairs = reads_and_pairs(work)
    count = len(work.tokens)
    return StepTerms(work.passes, work.passes * count, sum(work.tokens), sum(reads), sum(pairs))


def calibrate(
    steps: Sequence[TimedStep], *, model: str, gpu_type: str, gpus: int, software: str
) -> CalibrationProfile:
    """Fit the profile of an engine to its timed steps; those that stalled are told by the fit.

    Raises:
        SettingsError: If the steps are too few, or too much alike, or no such cost fits them.
    """
    if len(steps) < STEPS_MIN:
        raise SettingsError(f"calibration needs {STEPS_MIN} timed steps, not {len(steps)}")
    rows = [(terms_of(step.work), step.busy_ns) for step in steps]
    first = _fit(rows)
    errors = [_error_ppm(first, *row) for row in rows]
    limit = OUTLIER_FACTOR * max(_median(errors), 1)
    kept = [row for row, error in zip(rows, errors, strict=True) if error <= limit]
    fitted = _fit(kept)
    profile = CalibrationProfile(
        model=model,
        gpu_type=gpu_type,
        gpus=gpus,
        software=software,
        pass_fs=max(fitted[0], 1),
        request_fs=fitted[1],
        token_fs=fitted[2],
        read_fs=fitted[3],
        pair_fs=fitted[4],
        steps=len(kept),
        median_error_ppm=_median([_error_ppm(fitted, *row) for row in rows]),
    )
    _refuse_unsound(profile, "calibration")
    return profile


def save_profile(path: Path, profile: CalibrationProfile) -> None:
    """Write a profile and its hash."""
    sealed = SealedProfile(profile, profile.digest())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n")


def load_profile(path: Path) -> CalibrationProfile:
    """Read a profile that was saved; every field is checked, and the whole against its hash.

    Raises:
        SettingsError: If it cannot be read, was changed, or holds what cannot be.
    """
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=SealedProfile)
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(f"calibration profile {path}: {error}; {_REMEDY}") from error
    profile = sealed.profile
    if profile.format != FORMAT:
        raise SettingsError(
            f"calibration profile {path}: format is {profile.format!r}, not {FORMAT!r}; {_REMEDY}"
        )
    if sealed.sha256 != profile.digest():
        raise SettingsError(
            f"calibration profile {path}: sha256 is {profile.digest()}, the file says"
            f" {sealed.sha256!r}: it was changed after it was measured; {_REMEDY}"
        )
    _refuse_unsound(profile, f"calibration profile {path}")
    return profile


_REMEDY = "measure it again: `rentroll calibrate --help`"


def refuse_other_engine(
    profile: CalibrationProfile, *, model: str, gpu_type: str, gpus: int
) -> None:
    """A profile is good for the engine that it was measured on.

    Raises:
        SettingsError: If this is another one.
    """
    for name, here in (("model", model), ("gpu_type", gpu_type), ("gpus", gpus)):
        measured = getattr(profile, name)
        if measured != here:
            raise SettingsError(
                f"calibration profile: measured on {name}={measured}, this engine has {here};"
                f" {_REMEDY}"
            )


def _refuse_unsound(profile: CalibrationProfile, whose: str) -> None:
    names = ("pass_fs", "request_fs", "token_fs", "read_fs", "pair_fs")
    for name, value in zip(names, profile.coefficients(), strict=True):
        low = 1 if name == "pass_fs" else 0
        if not low <= value <= FS_MAX:
            raise SettingsError(f"{whose}: {name} must be in [{low}, {FS_MAX}], not {value}")
    if profile.token_fs + profile.request_fs + profile.read_fs == 0:
        raise SettingsError(f"{whose}: a token costs nothing: token_fs, request_fs, read_fs are 0")
    if not 0 <= profile.median_error_ppm <= ERROR_MAX_PPM:
        raise SettingsError(
            f"{whose}: median_error_ppm is {profile.median_error_ppm}, at most {ERROR_MAX_PPM}:"
            " the engine was too busy with other things, or costs something else than tokens"
        )
    if profile.gpus < 1 or profile.steps < 1:
        raise SettingsError(f"{whose}: gpus={profile.gpus} and steps={profile.steps} must be >= 1")


def _cost_fs(coefficients: Sequence[int], terms: StepTerms) -> int:
    return sum(cost * times for cost, times in zip(coefficients, terms, strict=True))


def _error_ppm(coefficients: Sequence[int], terms: StepTerms, busy_ns: int) -> int:
    off_fs = abs(_cost_fs(coefficients, terms) - busy_ns * _FS_PER_NS)
    return off_fs // max(busy_ns, 1)


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


def _fit(rows: Sequence[tuple[StepTerms, int]]) -> list[int]:
    """Non-negative least squares of the relative error: the best of all choices of terms.

    A coefficient that would be negative is one that these steps cannot tell from the others.
    """
    scaled = [[_SCALE * times // busy_ns for times in terms] for terms, busy_ns in rows]
    normal = [
        [sum(row[i] * row[j] for row in scaled) for j in range(_TERMS)] for i in range(_TERMS)
    ]
    right = [_SCALE * sum(row[i] for row in scaled) for i in range(_TERMS)]
    best: tuple[Fraction, list[Fraction]] | None = None
    for size in range(1, _TERMS + 1):
        for chosen in combinations(range(_TERMS), size):
            found = _solve(normal, right, chosen)
            if found is None or min(found) < 0:
                continue
            # The sum of squares, less the part that all choices share.
            gain = sum((a * right[i] for a, i in zip(found, chosen, strict=True)), Fraction(0))
            if best is None or gain > best[0]:
                whole = [Fraction(0)] * _TERMS
                for a, i in zip(found, chosen, strict=True):
                    whole[i] = a
                best = gain, whole
    if best is None:
        raise SettingsError(
            "calibration: no cost fits these steps; vary batch, prompts and context"
        )
    return [round(one * _FS_PER_NS) for one in best[1]]


def _solve(
    normal: Sequence[Sequence[int]], right: Sequence[int], chosen: Sequence[int]
) -> list[Fraction] | None:
    """The normal equations of the chosen terms by elimination; None where they are singular."""
    rows: list[list[Any]] = [
        [*(Fraction(normal[i][j]) for j in chosen), Fraction(right[i])] for i in chosen
    ]
    size = len(rows)
    for column in range(size):
        pivot = next((i for i in range(column, size) if rows[i][column]), None)
        if pivot is None:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        top = rows[column]
        rows[column] = top = [one / top[column] for one in top]
        for i in range(size):
            if i != column and (factor := rows[i][column]):
                rows[i] = [one - factor * other for one, other in zip(rows[i], top, strict=True)]
    return [row[-1] for row in rows]
