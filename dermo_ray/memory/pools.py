"""What one worker of each pool keeps on its GPU, part by part, in GiB.

Invariant: pure arithmetic on an `Architecture` and settings. Weights, gradients, optimizer states and the cache of keys
and values are exact; activations count the tensors that autograd keeps (`saved_by_layer` says which); what a library
takes for itself is a round figure (`_OVERHEAD`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dermo_ray.config.model import ModelSettings
from dermo_ray.config.pools import EngineSettings, PoolSettings
from dermo_ray.config.training import ShardingSettings
from dermo_ray.memory.architecture import Architecture

_GIB = 2**30
_OVERHEAD = 1.5 * _GIB
"""The CUDA context, the libraries' workspaces, communication buffers, and gaps between allocations."""
_LOGITS_AT_ONCE = 2**26
"""As in `dermo_ray.models.policy`, which this module does without, for it loads torch."""
_REDUCED_AT_ONCE = 500_000_000
"""Elements of DeepSpeed's bucket of gradients (`reduce_bucket_size`)."""
_GATHERED_AT_ONCE = 1_000_000_000
"""Parameters that ZeRO 3 keeps whole at once (`stage3_max_live_parameters`)."""


@dataclass(frozen=True)
class PoolMemory:
    """What one worker takes of one GPU, in GiB."""

    pool: str
    gpus_per_worker: float
    parts: Mapping[str, float]
    """By what it is for."""
    claimed: float
    """What the worker takes: the sum of its parts; an engine takes `gpu_memory_utilization` of the GPU."""
    needed: float
    """What it can't do without; an engine needs keys and values of one longest sequence."""
    note: str = ""


def learner_memory(
    pool: str,
    settings: PoolSettings,
    sharding: ShardingSettings,
    model: ModelSettings,
    sizes: Architecture,
    longest: int,
    *,
    branched: bool,
) -> PoolMemory:
    """A DeepSpeed rank that trains sequences of up to `longest` tokens, or with `branched`, of several to a prompt.

    Sharding by ZeRO stage: Rajbhandari et al., arXiv 1910.02054, section 5. With bfloat16 weights DeepSpeed keeps a
    32-bit copy of what is trained and adds gradients up in 32 bits.
    """
    size, stage, ranks = _bytes(model), sharding.stage_of(model.dtype), settings.workers
    sharded = {at: ranks if stage >= at else 1 for at in (1, 2, 3)}
    mixed = size < 4
    tokens = max(sharding.micro_batch_tokens, longest)
    bucket = min(_REDUCED_AT_ONCE, sizes.trained) * size if stage >= 2 else 0
    gathered = min(_GATHERED_AT_ONCE, sizes.parameters) * size if stage == 3 else 0
    parts = {
        "weights": sizes.parameters * size / sharded[3],
        "adapter": sizes.adapter * size / sharded[3],
        "gradients": sizes.trained * (size + (4 / sharded[2] if mixed else 0)),
        "optimizer": sizes.trained * (12 if mixed else 8) / sharded[1],
        "activations": _activations(sizes, size, tokens, model.gradient_checkpointing),
        "attention_mask": tokens * (tokens if branched else longest) * size,
        "logits": min(_LOGITS_AT_ONCE, tokens * sizes.vocabulary) * (16 + 2 * size),
        "overhead": _OVERHEAD + bucket + gathered,
    }
    total = sum(parts.values()) / _GIB
    return PoolMemory(pool, settings.gpus_per_worker, {n: b / _GIB for n, b in parts.items()}, total, total)


def engine_memory(
    pool: str, settings: PoolSettings, engine: EngineSettings, model: ModelSettings, sizes: Architecture, gpu: float
) -> PoolMemory:
    """A vLLM engine on GPUs of `gpu` GiB; what its share leaves over holds keys and values.

    An adapter's first factors are whole on every GPU of a tensor-parallel engine; the second ones are counted so too.
    """
    size, across = _bytes(model), engine.tensor_parallel_size
    tokens = max(engine.max_num_batched_tokens, engine.max_model_len)
    widest = 4 * sizes.width + 2 * sizes.mlp_width / across + 3 * sizes.query_width / across
    patches = tokens * sizes.patches_per_token
    parts = {
        "weights": sizes.parameters * size / across,
        "adapter": engine.max_adapters * sizes.adapter * size,
        "activations": size * (tokens * widest + patches * (8 * sizes.vision_width + 2 * sizes.vision_mlp_width)),
        "logits": engine.max_num_seqs * sizes.vocabulary * 12,
        "overhead": _OVERHEAD,
    }
    token = 2 * sizes.layers * sizes.key_width * size / across
    fixed = sum(parts.values())
    claimed = engine.gpu_memory_utilization * gpu * _GIB
    cache = max(0.0, claimed - fixed)
    needed = fixed + token * engine.max_model_len
    held = int(cache / token)
    return PoolMemory(
        pool,
        settings.gpus_per_worker,
        {name: value / _GIB for name, value in {**parts, "kv_cache": cache}.items()},
        claimed / _GIB,
        needed / _GIB,
        f"keys and values of {held:,} tokens, {held // engine.max_model_len} of the longest sequences at once",
    )


def saved_by_layer(sizes: Architecture, size: int) -> float:
    """Bytes that one decoder layer keeps of each token for the backward pass, its adapter on all seven projections.

    The inputs of both normalisations and of those of queries and keys in 32 bits; in `size` bytes an element, the two
    normalised inputs, queries, keys, values (repeated for all query heads) and the result of attention, that result
    again as the input of its projection, four tensors of the MLP, and the seven inner products of the adapter.
    """
    in_32_bits = 2 * sizes.width + sizes.query_width + sizes.key_width
    others = 2 * sizes.width + 5 * sizes.query_width + 4 * sizes.mlp_width + 7 * sizes.rank
    return 4 * in_32_bits + size * others


def _activations(sizes: Architecture, size: int, tokens: int, recompute: bool) -> float:
    layer = saved_by_layer(sizes, size) * tokens
    kept = sizes.layers * sizes.width * size * tokens + layer if recompute else sizes.layers * layer
    patches = tokens * sizes.patches_per_token
    of_block = size * (11 * sizes.vision_width + 2 * sizes.vision_mlp_width) * patches
    if not sizes.vision_is_trained:
        return kept + of_block  # the tower passes through without keeping anything
    if recompute:
        return kept + sizes.vision_layers * sizes.vision_width * size * patches + of_block
    return kept + sizes.vision_layers * of_block


def _bytes(model: ModelSettings) -> int:
    return 2 if model.dtype == "bfloat16" else 4
