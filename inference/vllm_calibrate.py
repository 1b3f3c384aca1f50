"""Drives a vLLM engine through steps of every kind, so that they can be timed.

`python -m inference.vllm_calibrate MODEL [options of vllm serve]`, in vLLM's environment; the
metering scheduler in it records the steps. Rounds vary the batch and the context; prompts arrive
alone and beside those who decode; they are random, so that the prefix cache holds none of them.
"""

import random
import sys
from collections.abc import Iterator
from typing import Any

from vllm import EngineArgs, SamplingParams
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.llm_engine import LLMEngine

from inference.serve_command import SCHEDULER

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (16, 128, 512, 2_048, 8_192)
PROMPT_TOKENS_MAX = 32_768
"""Of all the prompts of a round together: longer rounds say no more, and take minutes on a CPU."""
DECODED = 12
_SEED = 4


class Driver:
    """Gives an engine requests and steps it until they are through; counts the steps."""

    def __init__(self, engine: Any, vocabulary: int) -> None:
        self._engine = engine
        self._dice = random.Random(_SEED)  # noqa: S311 - prompts, not secrets
        self._vocabulary = vocabulary
        self._names = 0
        self.steps = 0

    def add(self, tokens: int, generated: int) -> None:
        """A request with a prompt that nobody has sent before."""
        prompt = [self._dice.randrange(3, self._vocabulary) for _ in range(tokens)]
        self._names += 1
        options = SamplingParams(max_tokens=generated, ignore_eos=True, temperature=1.0)
        self._engine.add_request(f"calibrate-{self._names}", {"prompt_token_ids": prompt}, options)

    def step(self, most: int = sys.maxsize) -> None:
        """Step until nobody is left, or so many times."""
        while most and self._engine.has_unfinished_requests():
            self._engine.step()
            self.steps += 1
            most -= 1

    def round(self, batch: int, context: int) -> None:
        """A batch that decodes, with another prompt coming when half of it is done."""
        for _ in range(batch):
            self.add(context, DECODED)
        self.step(DECODED // 2 + 1)
        self.add(max(context // 2, 1), 1)
        self.step()


def rounds(batch_max: int, context_max: int) -> Iterator[tuple[int, int]]:
    """(batch, context) of every round that the engine can take."""
    for context in CONTEXTS:
        if context + DECODED >= context_max:
            continue
        for batch in BATCHES:
            if batch <= batch_max and batch * context <= PROMPT_TOKENS_MAX:
                yield batch, context


def main() -> None:
    """Start the engine, warm it up, and drive it."""
    given = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", *sys.argv[1:]])
    arguments = EngineArgs.from_cli_args(given)
    arguments.scheduler_cls = SCHEDULER
    arguments.disable_log_stats = True
    engine = LLMEngine.from_engine_args(arguments)
    config = engine.vllm_config
    driver = Driver(engine, config.model_config.get_vocab_size())
    every = list(
        rounds(config.scheduler_config.max_num_seqs, int(config.model_config.max_model_len))
    )
    driver.round(*every[-1])
    driver.round(*every[0])
    _tell(f"warmed up after steps={driver.steps}")
    for number, (batch, context) in enumerate(every, 1):
        _tell(f"round {number} of {len(every)}: batch {batch}, context {context}")
        driver.round(batch, context)
    engine.engine_core.shutdown()


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
