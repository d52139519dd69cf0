"""One rank of a supervised fine-tuning run: its share of every batch, the update, validation and checkpoints.

Invariants: the gradient is that of the mean loss over all trained tokens of the global batch, however it is dealt out;
every rank makes the same passes and enters the same collectives; what a step does depends on the settings, the step and
the weights alone, so a resumed run goes on as if it had never stopped.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from actors.deepspeed_engine import ShardedTrainer
from actors.environment import threads
from actors.whole_weights import gathered_weights
from dermo_ray import checkpoints
from dermo_ray.config.sft import SftConfig
from dermo_ray.data.conversations import Conversations, content_hash, deal, permutation
from dermo_ray.data.conversations import formats as conversation_formats
from dermo_ray.data.mixture import BatchOrder
from dermo_ray.metrics import MetricsWriter
from dermo_ray.models.chat import load_processor
from dermo_ray.models.policy import load_policy, merge
from dermo_ray.models.supervised import Lesson, Tally, TokenScorer, encode
from dermo_ray.models.symmetries import batch_symmetries
from dermo_ray.run_directory import CHECKPOINTS, STOP

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Assignment:
    """What the driver hands to every rank."""

    config: SftConfig
    done: int
    """Updates that `checkpoint` has seen."""
    steps: int
    """Updates of the whole run."""
    checkpoint: Path | None
    """Where to go on from."""


def train_rank(assignment: Assignment) -> None:
    """Train to the end; the process group is there already and every rank of it calls this."""
    SupervisedRank(assignment).train()


class SupervisedRank:
    """Policy, data and optimizer of one rank."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._config = config = assignment.config
        transformers_logging.disable_progress_bar()
        torch.set_num_threads(threads(config.pool))
        self._processor = load_processor(config.model.path)
        torch.manual_seed(config.seed)  # the adapter's first weights are the same on every rank
        self._policy = load_policy(config.model, config.lora, vision=config.vision)
        scorer = TokenScorer(self._policy)
        self._trainer = ShardedTrainer(scorer, config.optimizer, config.sharding, config.model.dtype)
        scorer.most = self._trainer.most
        if assignment.checkpoint is not None:
            self._trainer.load(assignment.checkpoint / "learner")
        self._training = Conversations(config.data, "train")
        self._validation = Conversations(config.data, "val") if config.validation.every else None
        names, formats = conversation_formats(config.data, "train")
        self._order = BatchOrder(names, formats, config.batch_size, config.seed, config.mixture)
        if self._validation is not None:
            names = sorted({*names, *conversation_formats(config.data, "val")[0]})
        self._formats = {name: position for position, name in enumerate(names)}

    def train(self) -> None:
        """Every update that is left, with validations and checkpoints between them."""
        config, done, steps = self._config, self._assignment.done, self._assignment.steps
        with ExitStack() as stack:
            writer = stack.enter_context(MetricsWriter(config.run, done)) if self._trainer.rank == 0 else None
            # one thread makes all batches, training's and validation's: a tokenizer must not be used by two at once
            self._encoder = stack.enter_context(ThreadPoolExecutor(1))
            began = time.perf_counter()
            batches = prefetched(self._encoder, self._training_share, range(done, steps))
            for step, lessons in enumerate(batches, start=done + 1):
                metrics = self._update(step, lessons)
                seconds = time.perf_counter() - began
                metrics["tokens_per_second"] = metrics.pop("tokens") / seconds
                metrics["samples_per_second"] = config.batch_size / seconds
                metrics["epoch"] = step * config.batch_size / len(self._training)
                if self._validation and (step % config.validation.every == 0 or step == steps):
                    metrics |= self._validate(self._validation)
                if writer is not None:
                    writer.write(step, metrics)
                # the ranks look at one moment, so that all of them see the same
                stopping = self._trainer.most(int((config.run / STOP).exists())) > 0
                if step % config.checkpoint_every == 0 or step == steps or stopping:
                    self._save(step)
                if stopping:
                    break
                began = time.perf_counter()

    def _update(self, step: int, lessons: list[Lesson]) -> dict[str, float]:
        """Update number `step` (from 1) from this rank's share of the batch; metrics are those of the whole batch."""
        trainer, config = self._trainer, self._config
        trained, tokens, padded = trainer.total(
            [
                sum(float(lesson.batch.trained.sum()) for lesson in lessons),
                sum(float(lesson.batch.attention_mask.sum()) for lesson in lessons),
                sum(float(lesson.batch.attention_mask.numel()) for lesson in lessons),
            ]
        )
        tally = self._tally()

        def loss_of(lesson: Lesson) -> Tensor:
            lesson = lesson.to(trainer.device)
            scores = trainer.engine(lesson.batch)
            tally.add(lesson, scores.detach())
            return -scores[0].sum() / trained

        # dropout differs from step to step and from rank to rank, and comes back the same after a resume
        torch.manual_seed(int(np.random.SeedSequence((config.seed, step, trainer.rank)).generate_state(1)[0]))
        trainer.engine.train()
        rate = config.optimizer.rate_at(step - 1, self._assignment.steps)
        norm = trainer.update(self._padded(lessons), loss_of, rate)
        metrics = tally.means(trainer.total)
        if not (math.isfinite(metrics["loss"]) and math.isfinite(norm)):
            raise RuntimeError(f"update {step}: loss {metrics['loss']} and gradient norm {norm} must be finite")
        return metrics | {
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": tokens,
            "padding": 1 - tokens / padded,
        }

    @torch.no_grad()
    def _validate(self, data: Conversations) -> dict[str, float]:
        """Mean loss of a token, and the share of tokens that are the likeliest given those before them."""
        trainer, config = self._trainer, self._config
        chosen = permutation(len(data), config.seed, 0)[: config.validation.records].tolist()
        chunks = [chosen[start : start + config.batch_size] for start in range(0, len(chosen), config.batch_size)]
        tally = self._tally()
        trainer.engine.eval()
        for lessons in prefetched(self._encoder, partial(self._share, data), chunks):
            for lesson in self._padded(lessons):
                lesson = lesson.to(trainer.device)
                tally.add(lesson, trainer.engine(lesson.batch))
        return {f"val_{name}": value for name, value in tally.means(trainer.total).items()}

    def _tally(self) -> Tally:
        return Tally(list(self._formats), self._trainer.device)

    def _training_share(self, step: int) -> list[Lesson]:
        """The rank's share of the batch of update `step` (from 0)."""
        indices, config = self._order(step), self._config
        turns = batch_symmetries(len(indices), config.seed, step) if config.augment else None
        return self._share(self._training, indices, turns)

    def _share(self, data: Conversations, indices: Sequence[int], turns: Sequence[int] | None = None) -> list[Lesson]:
        """The rank's share of the conversations at `indices`, in micro-batches."""
        conversations = [data[index] for index in indices]
        lengths = [conversation.characters for conversation in conversations]
        own = deal(lengths, self._trainer.ranks)[self._trainer.rank]
        shown = own or [0]
        lessons = encode(
            self._processor,
            [conversations[position] for position in shown],
            self._config.sharding.micro_batch_tokens,
            self._config.max_length,
            self._formats,
            None if turns is None else [turns[position] for position in shown],
        )
        # the last few of a validation may be too few: a rank without one takes part with nothing to add
        return lessons if own else [lesson.untrained for lesson in lessons]

    def _padded(self, lessons: list[Lesson]) -> list[Lesson]:
        """As many passes as any rank has; those added train nothing."""
        missing = self._trainer.most(len(lessons)) - len(lessons)
        return lessons + [lessons[-1].untrained] * missing

    def _save(self, step: int) -> None:
        """Write the checkpoint of update `step`; every rank takes part."""
        config, trainer = self._config, self._trainer
        unfinished = [checkpoints.begin(config.run / CHECKPOINTS, step) if trainer.rank == 0 else Path()]
        dist.broadcast_object_list(unfinished)
        (checkpoint,) = unfinished
        trainer.save(checkpoint / "learner")
        weights = gathered_weights(trainer, self._policy)
        if trainer.rank != 0:
            return
        folder = checkpoint / ("model" if config.lora is None else "adapter")
        cast(PreTrainedModel, self._policy).save_pretrained(folder, state_dict=weights)
        if config.lora is not None and step == self._assignment.steps:
            folder = checkpoint / "model"
            merge(config.model, checkpoint / "adapter", folder)
        if folder.name == "model":
            self._processor.save_pretrained(folder)
        epoch = step * config.batch_size / len(self._training)
        state = {"step": step, "version": step, "epoch": epoch, "data": content_hash(config.data)}
        checkpoints.commit(checkpoint, state)
        checkpoints.retain(config.run / CHECKPOINTS, config.keep_checkpoints)


def prefetched(
    executor: ThreadPoolExecutor, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]
) -> Iterator[ResultT]:
    """`map` that computes the next result while the last one is in use."""
    pending: Future[ResultT] | None = None
    for item in items:
        upcoming = executor.submit(function, item)
        if pending is not None:
            yield pending.result()
        pending = upcoming
    if pending is not None:
        yield pending.result()
