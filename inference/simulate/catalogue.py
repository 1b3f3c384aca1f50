"""What well-known models cost on H100 GPUs: examples in round figures, not vendors' promises.

Rates are what kernels reach, not the data sheet: 80% of 3.35 TB/s and half of 989 TFLOP/s (BF16).
Sizes follow from the models' published shapes: KV bytes per token are
`2 * layers * kv_heads * head_size * 2`, attention FLOPs per pair are `4 * layers * hidden`.
"""

from dataclasses import dataclass

from inference.attribution import EngineProfile

GPU_TYPE = "h100-sxm"
_GPU_BANDWIDTH_BYTES_PER_S = 2_680_000_000_000
_GPU_PEAK_FLOPS_PER_S = 494_000_000_000_000
_GPU_MEMORY_BYTES = 72_000_000_000
"""Of 80 GB, what an engine may use at a utilisation of 0.9."""
_PASS_OVERHEAD_NS = 400_000


@dataclass(frozen=True, slots=True)
class Hardware:
    """A model on an engine of `gpus` GPUs: its costs, and how much context fits."""

    gpu_type: str
    gpus: int
    profile: EngineProfile
    kv_capacity_tokens: int


def _on_h100(
    gpus: int,
    *,
    weight_bytes: int,
    active_parameters: int,
    kv_bytes_per_token: int,
    attention_flops: int,
) -> Hardware:
    free_bytes = gpus * _GPU_MEMORY_BYTES - weight_bytes
    return Hardware(
        gpu_type=GPU_TYPE,
        gpus=gpus,
        profile=EngineProfile(
            weight_bytes=weight_bytes,
            kv_bytes_per_token=kv_bytes_per_token,
            flops_per_token=2 * active_parameters,
            attention_flops=attention_flops,
            bandwidth_bytes_per_s=gpus * _GPU_BANDWIDTH_BYTES_PER_S,
            peak_flops_per_s=gpus * _GPU_PEAK_FLOPS_PER_S,
            pass_overhead_ns=_PASS_OVERHEAD_NS,
        ),
        kv_capacity_tokens=free_bytes // kv_bytes_per_token,
    )


CATALOGUE: dict[str, Hardware] = {
    "llama-3.1-8b": _on_h100(
        1,
        weight_bytes=16_060_000_000,
        active_parameters=8_030_000_000,
        kv_bytes_per_token=131_072,
        attention_flops=524_288,
    ),
    "llama-3.3-70b": _on_h100(
        4,
        weight_bytes=141_200_000_000,
        active_parameters=70_600_000_000,
        kv_bytes_per_token=327_680,
        attention_flops=2_621_440,
    ),
    "llama-4-scout": _on_h100(
        4,
        weight_bytes=109_000_000_000,
        active_parameters=17_000_000_000,
        kv_bytes_per_token=196_608,
        attention_flops=983_040,
    ),
    "llama-4-maverick": _on_h100(
        8,
        weight_bytes=400_000_000_000,
        active_parameters=17_000_000_000,
        kv_bytes_per_token=196_608,
        attention_flops=983_040,
    ),
    "llama-3.1-405b": _on_h100(
        8,
        weight_bytes=405_000_000_000,
        active_parameters=405_000_000_000,
        kv_bytes_per_token=516_096,
        attention_flops=8_257_536,
    ),
}
"""By the names of the example price book."""
