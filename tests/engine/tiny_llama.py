"""Writes a tiny random Llama: what vLLM needs to serve it with `load_format=dummy`."""

import json
import sys
from pathlib import Path

HIDDEN, LAYERS, RANK = 256, 2, 4
MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
"""One token each, and no special ones: as in models that think and call tools."""


def write_tiny_llama(folder: Path) -> Path:
    """Configuration and a byte-level tokenizer with 512 tokens, in `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    words = ["hello world the quick brown fox", "billing metering tokens gpu seconds"]
    tokenizer.train_from_iterator(words * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.add_tokens(MARKERS)
    fast.chat_template = (
        "{% for m in messages %}{{m['role']}}: {{m['content']}}\n{% endfor %}assistant:"
    )
    fast.save_pretrained(str(folder))
    # A head of 64 is the smallest that vLLM supports on CPU.
    LlamaConfig(
        vocab_size=512,
        hidden_size=HIDDEN,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    ).save_pretrained(str(folder))
    return folder


def write_tiny_adapter(folder: Path) -> Path:
    """A LoRA adapter for it, in the files of `peft`; strong enough to change what it says."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    torch.manual_seed(5)
    weights = {}
    for layer in range(LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(RANK, HIDDEN)
        weights[f"{name}.lora_B.weight"] = torch.randn(HIDDEN, RANK)
    save_file(weights, str(folder / "adapter_model.safetensors"))
    terms = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK}
    terms |= {"target_modules": ["q_proj"], "bias": "none", "lora_dropout": 0.0}
    (folder / "adapter_config.json").write_text(json.dumps(terms))
    return folder


if __name__ == "__main__":
    write_tiny_adapter(write_tiny_llama(Path(sys.argv[1])) / "adapter")
