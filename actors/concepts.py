"""One rank of the concept model's training: its share of every batch, the update, validation, calibration, checkpoints.

Invariants: each head's loss is a mean over the images of the whole batch that count for it, however they are dealt
out; every rank enters the same collectives; what an update does depends on the settings, its number and the weights
alone, so a resumed run goes on as if it had never stopped. A checkpoint's `model/` is the best model so far,
calibrated, or the newest weights before the first validation; its `learner/` what the newest weights go on from.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ray.train.torch import get_device
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers.utils import logging as transformers_logging

from actors.environment import threads
from dermo_ray import checkpoints
from dermo_ray.config.concepts import ConceptsConfig
from dermo_ray.data.conversations import batch_indices, content_hash
from dermo_ray.metrics import MetricsWriter
from dermo_ray.models.concepts import load_concept_model
from dermo_ray.models.concepts.calibration import calibrate, calibrations, mean_losses
from dermo_ray.models.concepts.data import ConceptSamples, pixel_batches
from dermo_ray.models.concepts.encoders import new_model, new_processor
from dermo_ray.models.concepts.losses import TrainingLoss, class_weights, prior_logits
from dermo_ray.models.concepts.model import ConceptModel, Logits
from dermo_ray.models.concepts.predictions import evaluation_split, write_predictions
from dermo_ray.models.concepts.vocabulary import CONCEPTS, SCHEMAS
from dermo_ray.models.symmetries import batch_symmetries
from dermo_ray.morphology import Schema
from dermo_ray.run_directory import CHECKPOINTS, STOP

_LEARNER = "learner/learner.pt"


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Updates made."""
    best_step: int = 0
    """The update after which the validation loss was lowest."""
    best_loss: float = math.inf
    waited: int = 0
    """Validations since then."""

    def after(self, step: int, loss: float) -> "Progress":
        """What it is after a validation of update `step`."""
        if loss < self.best_loss:
            return Progress(step, step, loss)
        return replace(self, step=step, waited=self.waited + 1)


@dataclass(frozen=True)
class Assignment:
    """What the driver hands to every rank."""

    config: ConceptsConfig
    steps: int
    """Updates of the whole run, if nothing stops it early."""
    progress: Progress
    checkpoint: Path | None
    """Where to go on from."""


def train_rank(assignment: Assignment) -> None:
    """Train to the end and predict the evaluation split; the process group is there and every rank of it calls this."""
    ConceptRank(assignment).train()


class ConceptRank:
    """Model, data and optimizer of one rank."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._config = config = assignment.config
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self._device = get_device() if config.pool.on_gpu else torch.device("cpu")
        if config.pool.on_gpu:
            torch.cuda.set_device(self._device)  # objects are gathered through it
        self._threads = threads(config.pool)
        transformers_logging.disable_progress_bar()
        torch.set_num_threads(self._threads)
        self._training = ConceptSamples.read(config.data, "train", config.machine_annotations)
        self._validation = ConceptSamples.read(config.data, "val")
        self._vocabulary = self._training.vocabulary()
        self._processor = new_processor(config.encoder)
        torch.manual_seed(config.seed)  # the first weights are the same on every rank
        model = new_model(config.encoder, self._vocabulary, self._training.annotated_schemas())
        everything = self._training.targets(range(len(self._training)), self._vocabulary)
        for schema in SCHEMAS:
            model.concepts[schema].bias.data = prior_logits(schema, everything)
        self._best = model
        # convolutions are faster so on a CPU and with tensor cores
        self._model = model.to(self._device, memory_format=torch.channels_last)  # type: ignore[arg-type]
        loss = TrainingLoss(self._model, class_weights(everything, self._vocabulary, config.balance_cap))
        # an encoder may have parameters that its last hidden state does not depend on, always the same ones
        self._loss = DistributedDataParallel(loss, static_graph=True)
        self._optimizer = torch.optim.AdamW(self._parameter_groups(), betas=config.optimizer.betas)
        if assignment.checkpoint is not None:
            self._load(assignment.checkpoint)

    def train(self) -> None:
        """Every update that is left or that can be made until it is stopped, with validations and checkpoints."""
        config, steps, progress = self._config, self._assignment.steps, self._assignment.progress
        every = config.validation.every or math.ceil(len(self._training) / config.batch_size)
        left = range(progress.step, steps if progress.waited < config.validation.patience else progress.step)
        stopping = False
        with MetricsWriter(config.run, progress.step) if self._rank == 0 else nullcontext() as writer:
            began = time.perf_counter()
            for step, pixels in enumerate(self._pixels(left), start=progress.step + 1):
                metrics = self._update(step, pixels)
                metrics["samples_per_second"] = config.batch_size / (time.perf_counter() - began)
                metrics["epoch"] = step * config.batch_size / len(self._training)
                validates, stopping = step % every == 0 or step == steps, self._asked_to_stop()
                progress = replace(progress, step=step)
                if validates:
                    losses = self._validate(progress.best_loss)
                    metrics |= losses
                    progress = progress.after(step, losses["val_loss"])
                if validates or stopping:
                    self._save(progress)
                if writer is not None:
                    writer.write(step, metrics)
                if stopping or progress.waited >= config.validation.patience:
                    break
                began = time.perf_counter()
        if not stopping:
            self._predict_evaluation_split()

    def _asked_to_stop(self) -> bool:
        """Whether this update is to be the last; the ranks look at one moment, so that all of them see the same."""
        asked = torch.tensor(int((self._config.run / STOP).exists()), device=self._device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return bool(asked)

    def _pixels(self, steps: range) -> Iterator[Tensor]:
        """The rank's images of each update, turned at random."""
        config, plan = self._config, []
        for step in steps:
            turns = batch_symmetries(config.batch_size, config.seed, step) if config.augment else None
            plan.append((self._own(self._batch(step)), None if turns is None else self._own(turns)))
        return pixel_batches(self._training.images, self._processor, plan, self._threads)

    def _batch(self, step: int) -> list[int]:
        """The images of update `step` (from 0), on all ranks."""
        return batch_indices(len(self._training), self._config.batch_size, self._config.seed, step)

    def _own(self, indices: Sequence[int]) -> Sequence[int]:
        return indices[self._rank :: self._ranks]

    def _update(self, step: int, pixels: Tensor) -> dict[str, float]:
        """Update number `step` (from 1) from this rank's share of the batch; metrics are those of the whole batch."""
        config, batch = self._config, self._batch(step - 1)
        counts = self._training.targets(batch, self._vocabulary).counts()
        # dropout differs from step to step and from rank to rank, and comes back the same after a resume
        torch.manual_seed(int(np.random.SeedSequence((config.seed, step, self._rank)).generate_state(1)[0]))
        self._loss.train()
        targets = self._training.targets(self._own(batch), self._vocabulary).to(self._device)
        pixels = pixels.to(self._device, memory_format=torch.channels_last)
        sums: dict[str, Tensor] = self._loss(pixels, targets)
        shares = torch.stack([total / max(1, counts[head]) for head, total in sums.items()])
        self._optimizer.zero_grad()
        (shares.sum() * self._ranks).backward()  # gradients are averaged over the ranks
        norm = float(nn.utils.clip_grad_norm_(self._model.parameters(), config.optimizer.max_grad_norm))
        rate = config.optimizer.rate_at(step - 1, self._assignment.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self._optimizer.step()
        losses = shares.detach()
        dist.all_reduce(losses)
        if not math.isfinite(norm) or not bool(losses.isfinite().all()):
            raise RuntimeError(f"update {step}: losses {losses.tolist()} and gradient norm {norm} must be finite")
        named = {f"loss/{head}": float(value) for head, value in zip(sums, losses, strict=True)}
        return {"loss": float(losses.sum())} | named | {"learning_rate": rate, "grad_norm": norm}

    def _validate(self, best_loss: float) -> dict[str, float]:
        """Calibrate a copy of the model and measure it on the validation split; every rank gets the same answer.

        Where its loss is below `best_loss`, the copy is the best model from now on.
        """
        for buffer in self._model.buffers():  # running statistics are each rank's own until now
            dist.broadcast(buffer, 0)
        logits = self._predict(self._model, self._validation)
        answer: list[dict[str, float]] = [{}]
        if self._rank == 0:
            candidate = self._newest()
            targets = self._validation.targets(range(len(self._validation)), self._vocabulary)
            with torch.no_grad():
                calibrate(candidate, logits, targets)
                losses = mean_losses(candidate, logits, targets)
                heads = calibrations(candidate, logits, targets)
            if sum(losses.values()) < best_loss:
                self._best = candidate
            answer = [{"val_loss": sum(losses.values())} | {f"val_loss/{head}": loss for head, loss in losses.items()}]
            answer[0] |= {f"ece_before/{head}": value.ece_before for head, value in heads.items()}
            answer[0] |= {f"ece_after/{head}": value.ece_after for head, value in heads.items()}
        dist.broadcast_object_list(answer)
        return answer[0]

    def _newest(self) -> ConceptModel:
        """A copy of the model as it is now, laid out as files have it."""
        return deepcopy(self._model).to("cpu", memory_format=torch.contiguous_format)

    @torch.no_grad()
    def _predict(self, model: ConceptModel, samples: ConceptSamples) -> Logits:
        """Logits of all concepts for all samples, in their order and on the CPU."""
        model.eval()
        own = range(self._rank, len(samples), self._ranks)
        size = self._config.batch_size
        chunks: list[tuple[Sequence[int], None]] = [(own[at : at + size], None) for at in range(0, len(own), size)]
        parts = []
        for pixels in pixel_batches(samples.images, self._processor, chunks, self._threads):
            logits = model.concept_logits(pixels.to(self._device, memory_format=torch.channels_last))
            parts.append({schema: logits[schema].float().cpu() for schema in SCHEMAS})
        gathered: list[Any] = [None] * self._ranks
        dist.all_gather_object(gathered, parts)
        whole: dict[Schema, Tensor] = {s: torch.zeros(len(samples), len(names)) for s, names in CONCEPTS.items()}
        for rank, theirs in enumerate(gathered):
            for schema in SCHEMAS if theirs else ():
                whole[schema][rank :: self._ranks] = torch.cat([part[schema] for part in theirs])
        return whole

    def _predict_evaluation_split(self) -> None:
        """Write what the best model sees in the evaluation split; every rank takes part."""
        best = load_concept_model(self._config.run / CHECKPOINTS / checkpoints.LATEST / "model")
        samples = ConceptSamples.read(self._config.data, evaluation_split(self._config.data))
        logits = self._predict(best.to(self._device), samples)  # type: ignore[arg-type]
        if self._rank == 0:
            write_predictions(self._config.run, samples, logits)

    def _save(self, progress: Progress) -> None:
        """Write a checkpoint."""
        if self._rank == 0:
            config = self._config
            partial = checkpoints.begin(config.run / CHECKPOINTS, progress.step)
            best = self._best if progress.best_step else self._newest()
            best.save_pretrained(partial / "model")
            self._processor.save_pretrained(partial / "model")
            learner = partial / _LEARNER
            learner.parent.mkdir()
            torch.save({"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}, learner)
            known = {name: value for name, value in asdict(progress).items() if value != math.inf}  # JSON has none
            state = {**known, "data": content_hash(config.data)}
            checkpoints.commit(partial, state)
            checkpoints.retain(config.run / CHECKPOINTS, config.keep_checkpoints)
        dist.barrier()  # the others must not read `latest` before it is there

    def _load(self, checkpoint: Path) -> None:
        saved = torch.load(checkpoint / _LEARNER, map_location=self._device, weights_only=True)
        self._model.load_state_dict(saved["model"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self._best = load_concept_model(checkpoint / "model")

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Matrices decay, vectors don't; the linear head has its own rate and is left to find its scale."""
        config = self._config
        head = list(self._model.diagnosis.parameters())
        heads = set(map(id, head))
        body = [parameter for parameter in self._model.parameters() if id(parameter) not in heads]
        decay = config.optimizer.weight_decay
        return [
            {"params": [p for p in body if p.ndim > 1], "weight_decay": decay, "scale": 1.0},
            {"params": [p for p in body if p.ndim <= 1], "weight_decay": 0.0, "scale": 1.0},
            {
                "params": head,
                "weight_decay": 0.0,
                "scale": config.diagnosis_learning_rate / config.optimizer.learning_rate,
            },
        ]
