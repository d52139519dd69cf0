"""The one place that touches DeepSpeed: a module trained by several ranks under ZeRO stage 0 to 3.

Invariants: the loss handed over is a sum divided by the global count of tokens (or sequences), so the gradient does not
depend on micro-batches, accumulation or ranks; every rank makes the same number of passes, or collectives would hang.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("DS_ACCELERATOR", "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu")

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dermo_ray.config.training import OptimizerSettings, ShardingSettings

PieceT = TypeVar("PieceT")

# DeepSpeed would compile a shared-memory all-reduce on every machine's first run on CPUs, for a minute and with a C++
# compiler that need not be there; gloo does without.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def join_ranks(rank: int, ranks: int, address: str, port: int, *, on_gpu: bool, timeout: float) -> None:
    """Form the process group of a learner pool; every collective fails after `timeout` seconds."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK="0", MASTER_ADDR=address, MASTER_PORT=str(port))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout)
    )


class ShardedTrainer:
    """One rank's hold on a module: gradient accumulation, update, gathered state and checkpoints."""

    def __init__(self, module: nn.Module, optimizer: OptimizerSettings, sharding: ShardingSettings, dtype: str) -> None:
        self.ranks = dist.get_world_size()
        self.rank = dist.get_rank()
        self.zero_stage = sharding.zero_stage
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # with replicated 32-bit weights DeepSpeed clips without telling the norm, so that is done here
        self._clip_here = optimizer.max_grad_norm if sharding.zero_stage == 0 and dtype == "float32" else None
        adamw = torch.optim.AdamW(
            self._trained, lr=optimizer.learning_rate, betas=optimizer.betas, weight_decay=optimizer.weight_decay
        )
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=adamw,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": 0.0 if self._clip_here is not None else optimizer.max_grad_norm,
                "zero_optimization": {"stage": sharding.zero_stage},
                "zero_allow_untested_optimizer": True,
                "bf16": {"enabled": dtype == "bfloat16"},
                "steps_per_print": 2**31,
            },
            dist_init_required=False,
        )

    @property
    def device(self) -> torch.device:
        """Where batches belong."""
        return torch.device(self.engine.device)

    def update(self, pieces: Sequence[PieceT], loss_of: Callable[[PieceT], Tensor], learning_rate: float) -> float:
        """One optimizer step over `pieces` (the same number on every rank); returns the gradient's norm.

        `loss_of` gives a piece's share of the global loss. DeepSpeed averages gradients over ranks; the share is scaled
        up by their number to make that a sum.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        for position, piece in enumerate(pieces):
            self.engine.set_gradient_accumulation_boundary(position == len(pieces) - 1)
            self.engine.backward(loss_of(piece) * self.ranks, scale_wrt_gas=False)
        if self._clip_here is not None:
            norm = nn.utils.clip_grad_norm_(self._trained, self._clip_here)
            self.engine.step()
            return float(norm)
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def total(self, values: Iterable[float]) -> list[float]:
        """Element-wise sum of `values` over all ranks; every rank must call it."""
        tensor = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor]

    def most(self, value: int) -> int:
        """The largest of the ranks' values; every rank must call it."""
        tensor = torch.tensor(value, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    def whole(self, parameters: Iterable[Tensor]) -> AbstractContextManager[Any]:
        """Within it, sharded `parameters` are whole on every rank; every rank must enter it."""
        if self.zero_stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters(list(parameters))

    def save(self, folder: Path) -> None:
        """Write optimizer and trained weights, each rank its shard; every rank must call it."""
        self.engine.save_checkpoint(str(folder), tag="shards", exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote with the same number of ranks. Raises `RuntimeError` where nothing fits."""
        path, _ = self.engine.load_checkpoint(str(folder), tag="shards", load_module_strict=False)
        if path is None:
            raise RuntimeError(f"rank {self.rank}: DeepSpeed found nothing to load in {folder}")
