"""Writes a tiny random Llama: what vLLM needs to serve it with `load_format=dummy`."""

from pathlib import Path


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
    fast.chat_template = (
        "{% for m in messages %}{{m['role']}}: {{m['content']}}\n{% endfor %}assistant:"
    )
    fast.save_pretrained(str(folder))
    # A head of 64 is the smallest that vLLM supports on CPU.
    LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    ).save_pretrained(str(folder))
    return folder
