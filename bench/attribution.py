"""How near each way of attributing comes to the Shapley value, by class of traffic.

    python -m bench.attribution [--seed N] [--pairs N] [--scale-percent N]

Mixes of five classes of traffic run on the simulated engine. Every step is a game whose worth is
the roofline's cost of any group of its requests; its Shapley value is what each should pay
(`bench.shapley`). The table shows, per mix and class, the GPU-seconds by Shapley with the standard
error of the estimate, how far each attribution model is from them, and, as the multiple of them,
what a bill by wall time would claim: the time each request was in the engine, as if it were alone.

Ends with status 1 if the default model is more than `TOLERANCE_PERCENT` off for any class.
"""

import argparse
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from bench.attribution_mixes import MIXES, Mix, Ran, run_mix
from bench.shapley import shapley, step_costs
from inference.attribution import attribute
from inference.attribution_models import MODELS, attribution_model

TOLERANCE_PERCENT = 5
DEFAULT = attribution_model("fixed_marginal").name
_NS_PER_S = 1e9


@dataclass
class ClassResult:
    """What a class of traffic cost; seconds of the whole engine, `by_model` by each model."""

    requests: int = 0
    shapley_s: float = 0.0
    variance_s2: float = 0.0
    wall_s: float = 0.0
    by_model: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def standard_error_percent(self) -> float:
        """Of the Shapley value; 0 where it was exact."""
        return 100 * math.sqrt(self.variance_s2) / self.shapley_s

    def off_percent(self, model: str) -> float:
        """How far a model is from the Shapley value."""
        return 100 * (self.by_model[model] / self.shapley_s - 1)

    def wall_multiple(self) -> float:
        """What wall time claims, as a multiple of the Shapley value."""
        return self.wall_s / self.shapley_s


@dataclass
class MixResult:
    """Every class of a mix, and in how many steps the Shapley value was found in which way."""

    mix: Mix
    classes: dict[str, ClassResult]
    ways: Counter[str]
    requests_per_step: float


def compare(ran: Ran, *, pairs: int, seed: int) -> MixResult:
    """Attribute every step of a mix by every model, and by its Shapley value."""
    dice = np.random.default_rng([seed, pairs])
    models = list({model.name: model for model in MODELS.values()}.values())
    classes: dict[str, ClassResult] = defaultdict(ClassResult)
    ways: Counter[str] = Counter()
    members = 0
    for step in ran.steps:
        costs = step_costs(ran.hardware.profile, step.work)
        value = shapley(costs, pairs=pairs, dice=dice)
        ways[value.way] += 1
        members += len(step.requests)
        # Estimates per class first: those of requests in one step depend on each other.
        rows: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
        for index, request in enumerate(step.requests):
            name = ran.class_of[request]
            rows[name] = rows.get(name, 0.0) + value.rows_s[:, index]
        for name, estimates in rows.items():
            result = classes[name]
            result.shapley_s += float(estimates.mean())
            if len(estimates) > 1:
                result.variance_s2 += float(estimates.var(ddof=1)) / len(estimates)
        total_ns = round(costs.total_s() * _NS_PER_S)
        for model in models:
            shares = attribute(model, ran.hardware.profile, 1, total_ns, step.work, step.requests)
            for request, share_ns in zip(step.requests, shares, strict=True):
                classes[ran.class_of[request]].by_model[model.name] += share_ns / _NS_PER_S
    for request, wall_ns in ran.wall_ns.items():
        result = classes[ran.class_of[request]]
        result.requests += 1
        result.wall_s += wall_ns / _NS_PER_S
    return MixResult(ran.mix, dict(classes), ways, members / len(ran.steps))


def worst_percent(results: list[MixResult], model: str) -> float:
    """The largest distance from the Shapley value of any class in any mix."""
    return max(abs(one.off_percent(model)) for mix in results for one in mix.classes.values())


def table(result: MixResult) -> Iterator[str]:
    """The comparison of a mix, line by line."""
    steps = ", ".join(f"{count} {way}" for way, count in result.ways.most_common())
    yield f"{result.mix.name} ({result.mix.model}): {sum(result.ways.values())} steps of"
    yield f"  {result.requests_per_step:.0f} requests on average; Shapley value: {steps}"
    columns = sorted(result.classes.values(), key=lambda one: -one.shapley_s)
    names = {id(one): name for name, one in result.classes.items()}
    models = sorted(columns[0].by_model, key=lambda name: (name != DEFAULT, name))
    yield (
        f"  {'class':14}{'requests':>9}{'Shapley s':>11}{'s.e.':>7}"
        + "".join(f"{name:>18}" for name in models)
        + f"{'wall time':>11}"
    )
    for one in columns:
        yield (
            f"  {names[id(one)]:14}{one.requests:9d}{one.shapley_s:11.3f}"
            f"{one.standard_error_percent():6.2f}%"
            + "".join(f"{one.off_percent(name):+17.1f}%" for name in models)
            + f"{one.wall_multiple():10.1f}x"
        )


def main(say: Callable[[str], None] = print) -> int:
    """Run every mix and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of traffic and permutations")
    parser.add_argument("--pairs", type=int, default=64, help="pairs of permutations per step")
    parser.add_argument("--scale-percent", type=int, default=100, help="of each mix's duration")
    options = parser.parse_args()
    results = []
    for mix in MIXES:
        ran = run_mix(mix.scaled(options.scale_percent), options.seed)
        results.append(compare(ran, pairs=options.pairs, seed=options.seed))
        for line in table(results[-1]):
            say(line)
        say("")
    for model in results[0].classes[next(iter(results[0].classes))].by_model:
        say(f"worst class by {model:18} {worst_percent(results, model):8.1f}%")
    walls = [one.wall_multiple() for mix in results for one in mix.classes.values()]
    say(f"by wall time           {min(walls):8.1f}x to {max(walls):.1f}x")
    held = worst_percent(results, DEFAULT) <= TOLERANCE_PERCENT
    say(f"{DEFAULT} {'holds' if held else 'BREAKS'} +-{TOLERANCE_PERCENT}% for every class")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
