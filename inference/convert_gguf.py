"""Writes a GGUF file as a folder that vLLM loads: `python -m inference.convert_gguf FILE FOLDER`.

Runs in the engine's environment, where transformers is. Weights are dequantized to bfloat16.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(source: Path, target: Path) -> None:
    """Weights, configuration, tokenizer and chat template of `source` into `target`."""
    named = {"gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **named)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
        **named,
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
