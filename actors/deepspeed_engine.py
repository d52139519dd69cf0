"""The one place that touches DeepSpeed: a module trained by several ranks under ZeRO stage 0 to 3.

Invariants: the loss handed over is a sum divided by the global count of tokens (or sequences), and gradients add up in
32 bits, so the gradient does not depend on micro-batches, accumulation or ranks; every rank makes the same number of
passes, or collectives would hang.
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
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor, nn

from dermo_ray.config.training import OptimizerSettings, ShardingSettings
from dermo_ray.errors import UserError

PieceT = TypeVar("PieceT")

_SHARDS, _WHOLE = "shards", "whole.pt"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_WHOLE_PARAMETERS = 10**9
"""Trained parameters up to which a sharded checkpoint is written whole as well: 12 bytes each."""

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
        bf16 = dtype == "bfloat16"
        # gradients of many passes add up in 32 bits, or small ones would be lost; DeepSpeed does that from stage 2 on
        self.zero_stage = sharding.stage_of(dtype)
        self._trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        # with replicated 32-bit weights DeepSpeed clips without telling the norm, so that is done here
        self._clip_here = optimizer.max_grad_norm if self.zero_stage == 0 else None
        adamw = torch.optim.AdamW(
            self._trained,
            lr=optimizer.learning_rate,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=module,
            optimizer=adamw,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": 0.0 if self._clip_here is not None else optimizer.max_grad_norm,
                "zero_optimization": {"stage": self.zero_stage},
                "zero_allow_untested_optimizer": True,
                "bf16": {"enabled": bf16},
                "data_types": {"grad_accum_dtype": "fp32"} if bf16 else {},
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

    def whole(self, parameters: Iterable[Tensor], writer: int | None = None) -> AbstractContextManager[Any]:
        """Within it, sharded `parameters` are whole on every rank; every rank must enter it.

        What rank `writer` writes to them, where one is named, is kept.
        """
        if self.zero_stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=writer)

    def save(self, folder: Path) -> None:
        """Write optimizer and trained weights, each rank its shard; every rank must call it.

        What is sharded is written whole as well, unless it is too large, so that another number of ranks can go on.
        """
        self.engine.save_checkpoint(str(folder), tag=_SHARDS, exclude_frozen_parameters=True)
        if self.zero_stage > 0 and sum(_size(parameter) for parameter in self._trained) <= _WHOLE_PARAMETERS:
            whole = self._whole_state()
            if self.rank == 0:
                torch.save({"ranks": self.ranks, **whole}, folder / _WHOLE)

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote, with any number of ranks; every rank must call it.

        Raises `UserError` where the number differs and only shards were written, `RuntimeError` where nothing fits.
        """
        ranks = len(list((folder / _SHARDS).glob("*_optim_states.pt")))
        if self.zero_stage > 0 and ranks != self.ranks:
            if not (folder / _WHOLE).is_file():
                raise UserError(
                    f"{folder} was written by {ranks} ranks, each its shard of a model too large to be written whole: "
                    f"go on with learner.workers={ranks}"
                )
            self._take_whole_state(torch.load(folder / _WHOLE, map_location=self.device, weights_only=True))
            return
        path, _ = self.engine.load_checkpoint(str(folder), tag=_SHARDS, load_module_strict=False)
        if path is None:
            raise RuntimeError(f"rank {self.rank}: DeepSpeed found nothing to load in {folder}")

    def _whole_state(self) -> dict[str, Any]:
        """Each trained weight in 32 bits and its moments, gathered from the shards; every rank must call it."""
        self._know_moments()
        weights = [safe_get_full_fp32_param(parameter).cpu() for parameter in self._trained]
        moments = {
            name: [safe_get_full_optimizer_state(parameter, name).cpu() for parameter in self._trained]
            for name in _MOMENTS
        }
        step = float(next(iter(self.optimizer.optimizer.state.values()))["step"])
        return {"weights": weights, "moments": moments, "step": step}

    def _take_whole_state(self, whole: dict[str, Any]) -> None:
        zero = self.optimizer
        shards = zero.fp32_partitioned_groups_flat if self.zero_stage == 3 else zero.single_partition_of_fp32_groups
        for shard in shards:  # before its first update AdamW has no state that could be filled
            moments = {name: torch.zeros_like(shard) for name in _MOMENTS}
            zero.optimizer.state[shard] = {"step": torch.tensor(whole["step"]), **moments}
        self._know_moments()
        for position, (parameter, weight) in enumerate(zip(self._trained, whole["weights"], strict=True)):
            safe_set_full_fp32_param(parameter, weight)
            for name in _MOMENTS:
                safe_set_full_optimizer_state(parameter, whole["moments"][name][position], name)
            with self.whole([parameter], writer=0), torch.no_grad():
                parameter.copy_(weight)

    def _know_moments(self) -> None:
        """DeepSpeed finds the moments under stages 1 and 2 only once it has looked for them."""
        if self.zero_stage < 3:
            self.optimizer._lazy_init_hp_params_optimizer_state()


def _size(parameter: Tensor) -> int:
    """How many numbers a parameter has, on all ranks together."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
