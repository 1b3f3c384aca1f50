"""What metering costs a real vLLM engine: paired rounds on one engine, with the hooks and without.

    make bench-metering [BENCH_ARGS="--model FOLDER --rounds 40 --batches 16,64"]

One engine serves rounds of a batch of requests each. Between rounds, when nobody is left, its
scheduler becomes vLLM's own class, or the metered one again: the same engine, weights, threads and
memory, so that a pair of neighbouring rounds differs in the metering alone. Of each pair, in random
order, the ratio counts; printed are the median ratio and its 95% confidence interval (bootstrap)
of tokens/s and of CPU time per token of the whole process. Where neighbours keep the machine busy,
the CPU time is the measure. Of batches of 1, 25 and 100 the hooks' CPU time is printed, too.

Without --model a random Llama of two layers is served, whose steps take 2 ms: the hardest case.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_PLUGINS": "",
}
HOOKED_BATCHES = (1, 25, 100)
PROMPT_TOKENS = (16, 256)
_RESAMPLES = 4_000
_NS_PER_US = 1_000


class Round(NamedTuple):
    """What a round took."""

    wall_ns: int
    cpu_ns: int
    steps: int


class Ratio(NamedTuple):
    """Metered over bare, with the bounds of its 95% confidence interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        def percent(ratio: float) -> str:
            return f"{100 * (ratio - 1):+.2f}%"

        return f"{percent(self.median):>8} [{percent(self.low)}, {percent(self.high)}]"


class Bench:
    """One engine, metered or not."""

    def __init__(self, model: Path, *, load_format: str, seed: int) -> None:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self.dice = random.Random(seed)
        arguments = EngineArgs(
            model=str(model),
            load_format=load_format,
            enforce_eager=True,
            dtype="float32",
            max_model_len=1_024,
            max_num_seqs=128,
            distributed_executor_backend="uni",
            scheduler_cls="inference.vllm_scheduler.MeteredScheduler",
            disable_log_stats=True,
        )
        self.engine = LLMEngine.from_engine_args(arguments)
        self.scheduler: Any = self.engine.engine_core.engine_core.scheduler
        self.metered: type = type(self.scheduler)
        self.bare = _bare(self.metered)
        self.names = 0

    def lengths(self, batch: int) -> list[int]:
        """Of the prompts of a round, or of both rounds of a pair."""
        return [self.dice.randint(*PROMPT_TOKENS) for _ in range(batch)]

    def round(self, kind: type, lengths: list[int], tokens: int) -> Round:
        """Requests from the first to the last token, under the scheduler `kind`."""
        from vllm import SamplingParams

        if self.engine.has_unfinished_requests():
            raise RuntimeError("a round begins on an idle engine")
        self.scheduler.__class__ = kind
        options = SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0.0)
        steps = 0
        cpu_ns, wall_ns = time.process_time_ns(), time.perf_counter_ns()
        for length in lengths:
            self.names += 1
            prompt = [self.dice.randrange(3, 500) for _ in range(length)]
            self.engine.add_request(f"{self.names}", {"prompt_token_ids": prompt}, options)
        while self.engine.has_unfinished_requests():
            self.engine.step()
            steps += 1
        return Round(time.perf_counter_ns() - wall_ns, time.process_time_ns() - cpu_ns, steps)

    def pairs(self, batch: int, tokens: int, rounds: int) -> list[tuple[Round, Round]]:
        """(bare, metered) rounds side by side, in random order; the first pair warms up."""
        found = []
        for _ in range(rounds + 1):
            kinds = [self.bare, self.metered]
            self.dice.shuffle(kinds)
            lengths = self.lengths(batch)
            took = {kind: self.round(kind, lengths, tokens) for kind in kinds}
            found.append((took[self.bare], took[self.metered]))
        return found[1:]

    def hook_ns(self, timed: Any, batch: int, tokens: int, rounds: int) -> list[int]:
        """CPU ns that `timed` keeps, per step of a round with everyone decoding."""
        found = []
        for _ in range(rounds):
            timed.each_ns = []
            self.round(timed, self.lengths(batch), tokens)
            # Not the first and the last ones, in which requests come and go.
            found += timed.each_ns[2:-2]
        return found


class _NoHooks:
    """Stands where the hooks stand, so that objects of both classes are laid out alike."""


def _bare(metered: type) -> type:
    """What vLLM would have chosen: the mixin stands first in the order of methods, it second."""
    chosen: Any = metered.__mro__[2]
    return type("Bare", (_NoHooks, chosen), {})


def _timed(hooks: type, chosen: Any) -> Any:
    """`chosen` under `hooks`, which keeps how long these took in each step.

    One class times the two methods of a step from outside of the hooks, one from inside.
    """
    now_ns = time.thread_time_ns

    class Inner(chosen):  # type: ignore[misc]
        def schedule(self, *arguments: Any, **named: Any) -> Any:
            began_ns = now_ns()
            output = super().schedule(*arguments, **named)
            Timed.spent_ns -= now_ns() - began_ns
            return output

        def update_from_output(self, *arguments: Any, **named: Any) -> Any:
            began_ns = now_ns()
            outputs = super().update_from_output(*arguments, **named)
            Timed.spent_ns -= now_ns() - began_ns
            return outputs

    class Timed(hooks, Inner):  # type: ignore[misc]
        spent_ns = 0
        each_ns: ClassVar[list[int]] = []

        def schedule(self, *arguments: Any, **named: Any) -> Any:
            began_ns = now_ns()
            output = super().schedule(*arguments, **named)
            Timed.spent_ns += now_ns() - began_ns
            return output

        def update_from_output(self, *arguments: Any, **named: Any) -> Any:
            began_ns = now_ns()
            outputs = super().update_from_output(*arguments, **named)
            Timed.spent_ns += now_ns() - began_ns
            Timed.each_ns.append(Timed.spent_ns)
            Timed.spent_ns = 0
            return outputs

    return Timed


def ratio_of(ratios: list[float], dice: random.Random) -> Ratio:
    """The median and its bootstrap interval."""
    medians = sorted(
        statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES)
    )
    return Ratio(
        statistics.median(ratios),
        medians[_RESAMPLES * 25 // 1_000],
        medians[_RESAMPLES * 975 // 1_000],
    )


def report(bench: Bench, batch: int, options: argparse.Namespace) -> None:
    """Print what the metering costs at this batch."""
    pairs = bench.pairs(batch, options.tokens, options.rounds)
    dice = random.Random(options.seed)
    rate = ratio_of([bare.wall_ns / metered.wall_ns for bare, metered in pairs], dice)
    cpu = ratio_of([metered.cpu_ns / bare.cpu_ns for bare, metered in pairs], dice)
    step_us = statistics.median(bare.wall_ns / bare.steps for bare, _ in pairs) / _NS_PER_US
    more_us = [
        (metered.cpu_ns / metered.steps - bare.cpu_ns / bare.steps) / _NS_PER_US
        for bare, metered in pairs
    ]
    more = statistics.median(more_us)
    medians = sorted(
        statistics.median(dice.choices(more_us, k=len(more_us))) for _ in range(_RESAMPLES)
    )
    print(
        f"batch {batch:3}: {len(pairs)} pairs, a bare step {step_us:8,.0f} us\n"
        f"  tokens/s            {rate}\n"
        f"  CPU time per token  {cpu}\n"
        f"  CPU time per step   {more:+8.1f} us [{medians[100]:+.1f}, {medians[-101]:+.1f}]",
        flush=True,
    )


def report_hooks(bench: Bench, options: argparse.Namespace) -> None:
    """Print the hooks' CPU time per step: most only queue, some account for many."""
    hooks, chosen = bench.metered.__mro__[1:3]
    for batch in HOOKED_BATCHES:
        timers, timed = (
            mean_us(bench.hook_ns(_timed(kind, chosen), batch, options.tokens, options.rounds))
            for kind in (_NoHooks, hooks)
        )
        spent = timed - timers
        print(
            f"batch {batch:3}: inside the hooks {spent:.1f} us a step, {spent / batch:.2f} us a"
            f" request and step (the timers' own {timers:.1f} us are taken off)",
            flush=True,
        )


def mean_us(found: list[int]) -> float:
    """Without the worst 1%: a neighbour that takes the caches for a while is not ours."""
    kept = sorted(found)[: len(found) * 99 // 100]
    return statistics.fmean(kept) / _NS_PER_US


def main() -> None:
    """Start the engine, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="folder of a model; none: a tiny random Llama")
    parser.add_argument("--batches", default="16,64", help="numbers of requests, with commas")
    parser.add_argument("--tokens", type=int, default=64, help="generated per request")
    parser.add_argument("--rounds", type=int, default=40, help="pairs of rounds per batch")
    parser.add_argument("--seed", type=int, default=1, help="of prompts and order")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rentroll-bench-") as name:
        folder = Path(name)
        os.environ.update(QUIET, RENTROLL_INFERENCE_HOST_FOLDER=str(folder / "host"))
        model, load_format = options.model, "auto"
        if model is None:
            from tests.engine.tiny_llama import write_tiny_llama

            model, load_format = write_tiny_llama(folder / "model"), "dummy"
        bench = Bench(model, load_format=load_format, seed=options.seed)
        print(f"metered over bare, median of pairs [95%]; load {os.getloadavg()[0]:.1f}")
        for batch in map(int, options.batches.split(",")):
            report(bench, batch, options)
        report_hooks(bench, options)
        bench.engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
