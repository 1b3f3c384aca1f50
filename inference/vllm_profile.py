"""What a model costs on its engine, in integers, out of vLLM's configuration.

Sizes follow from the published shape of a decoder: per layer the projections of attention and the
matrices of its MLP (of all experts for the weights, of the active ones for arithmetic), and the
embedding at both ends. A shape with parts that are not counted here (vision towers, state-space
layers) makes weights look lighter than they are: shares move a little from equal to marginal, and
no nanosecond is lost. Formulas as in vLLM's `v1/metrics/perf.py`.
"""

import re
from typing import Any

from inference.attribution import EngineProfile
from inference.settings import InferenceSettings

GPU_RATES: tuple[tuple[str, int, int], ...] = (
    ("h200", 3_840_000_000_000, 494_000_000_000_000),
    ("h100", 2_680_000_000_000, 494_000_000_000_000),
    ("b200", 6_400_000_000_000, 1_125_000_000_000_000),
    ("a100", 1_600_000_000_000, 156_000_000_000_000),
    ("l40s", 690_000_000_000, 181_000_000_000_000),
    ("l4", 240_000_000_000, 60_000_000_000_000),
    ("cpu", 20_000_000_000, 200_000_000_000),
)
"""(part of the name, bytes/s, FLOP/s) per GPU: 80% of the data sheet's bandwidth and half of its
BF16 arithmetic, which is what kernels reach. The ratio decides what a step is bound by."""
_PASS_OVERHEAD_NS = 400_000
UNKNOWN = "unknown"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._:/@+-]")
_NAME_CHARS = 128
_BITS_OF_QUANTIZATION = (("fp8", 8), ("int8", 8), ("awq", 4), ("gptq", 4), ("fp4", 4), ("gguf", 5))


def model_name_of(config: Any) -> str:
    """What the model is served as, in the form in which an event can hold it.

    Without `--served-model-name` vLLM serves a model by its path: of `/models/llama` that is
    `models/llama`.
    """
    served = config.model_config.served_model_name or config.model_config.model
    text = _NOT_IN_A_NAME.sub("-", served if isinstance(served, str) else served[0])
    return text[-_NAME_CHARS:].lstrip("._:/@+-") or UNKNOWN


def gpu_type_of(config: Any, settings: InferenceSettings) -> str:
    """The name of what the engine runs on, such as `nvidia-h100-80gb-hbm3` or `cpu`."""
    if settings.gpu_type:
        return settings.gpu_type
    device = str(config.device_config.device_type)
    if device != "cuda":
        return device
    from vllm.platforms import current_platform

    return str(current_platform.get_device_name()).lower().replace(" ", "-")


def engine_profile(config: Any, gpu_type: str, settings: InferenceSettings) -> EngineProfile:
    """The profile of the model in a vLLM configuration, for all GPUs of the engine together."""
    gpus = int(config.parallel_config.world_size)
    shape = _Shape(config.model_config)
    rates = next((one for one in GPU_RATES if one[0] in gpu_type.lower()), GPU_RATES[-1])
    return EngineProfile(
        weight_bytes=max(shape.parameters() * shape.weight_bits // 8, 1),
        kv_bytes_per_token=max(shape.kv_values() * shape.kv_bits(config.cache_config) // 8, 1),
        flops_per_token=max(2 * shape.active_parameters(), 1),
        attention_flops=4 * shape.layers * shape.heads * shape.head_size,
        bandwidth_bytes_per_s=gpus * (settings.bandwidth_bytes_per_s or rates[1]),
        peak_flops_per_s=gpus * (settings.peak_flops_per_s or rates[2]),
        pass_overhead_ns=_PASS_OVERHEAD_NS,
    )


class _Shape:
    """The figures of a decoder that its costs follow from."""

    def __init__(self, model: Any) -> None:
        text = self._text = model.hf_text_config
        self.layers = self._first("num_hidden_layers", "n_layer")
        self.hidden = self._first("hidden_size", "n_embd")
        self.heads = self._first("num_attention_heads", "n_head")
        self.head_size = int(model.get_head_size())
        self.kv_heads = int(model.get_total_num_kv_heads())
        self.vocabulary = int(model.get_vocab_size())
        self.experts = self._first("num_experts", "num_local_experts", "n_routed_experts")
        self.active_experts = self._first("num_experts_per_tok") or 1
        self.tied = bool(getattr(text, "tie_word_embeddings", False))
        self.dtype_bits = 8 * int(model.dtype.itemsize)
        quantization = str(model.quantization or "")
        self.weight_bits = next(
            (bits for name, bits in _BITS_OF_QUANTIZATION if name in quantization), self.dtype_bits
        )

    def _first(self, *names: str) -> int:
        for name in names:
            value = getattr(self._text, name, None)
            if isinstance(value, int):
                return value
        return 0

    def parameters(self) -> int:
        """Everything that a pass over a large batch reads."""
        return self._with_experts(max(self.experts, 1))

    def active_parameters(self) -> int:
        """What one token is multiplied with."""
        return self._with_experts(self.active_experts if self.experts else 1)

    def _with_experts(self, experts: int) -> int:
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        inner = self._first("moe_intermediate_size") if self.experts else 0
        inner = inner or self._first("intermediate_size", "n_inner") or 4 * self.hidden
        mlp = 3 * self.hidden * inner * experts
        ends = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * (attention + mlp) + ends

    def kv_values(self) -> int:
        """Numbers in the KV cache per token of context, over all layers."""
        latent = self._first("kv_lora_rank")
        if latent:
            return self.layers * (latent + self._first("qk_rope_head_dim"))
        return self.layers * 2 * self.kv_heads * self.head_size

    def kv_bits(self, cache: Any) -> int:
        """Bits of one of them."""
        return 8 if "8" in str(cache.cache_dtype) else self.dtype_bits
