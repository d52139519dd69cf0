"""The learner rank: its share of every batch, one update, and the adapter that results.

Invariants: the trained token ids are the sampled ones, after the prompt ids the engine used; every rank takes part in
every update with the same number of passes; the gradient is that of the whole batch, however it is dealt out.
"""

import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from PIL import Image
from torch import Tensor

from actors.adapters import Adapter, FullWeights, Published, Sent, publish
from actors.deepspeed_engine import ShardedTrainer, join_ranks
from actors.environment import threads
from actors.messages import CompletionName, ScoredGroup, TrainingGroup
from actors.whole_weights import WeightSource, gathered_weights
from dermo_ray.algorithms import aggregate, kl_divergence, loss_units, objective
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.models.batches import TokenSequence, VLMBatch, collate, encode_images, untrained
from dermo_ray.models.chat import banned_token_ids, load_processor
from dermo_ray.models.policy import PolicyScorer, load_policy


@dataclass(frozen=True)
class Piece:
    """One forward and backward pass: [B, L] tensors beside the batch. Pieces of padding have no trained token."""

    batch: VLMBatch
    advantages: Tensor
    """[B]."""
    rollout_logprobs: Tensor
    """[B, L], as the engine reported them, 0 where no token is trained."""
    completions: list[CompletionName]
    """[B]: which completion each row is."""


class LearnerRank:
    """A Ray actor's class: rank `rank` of the learner pool."""

    def __init__(self, config: MavicConfig, rank: int) -> None:
        self._config = config
        self._rank = rank
        self._logprobs: dict[CompletionName, list[float]] = {}
        self._sender: Any = None
        """Sends whole weights to the engines, where they are not handed over as files."""
        torch.set_num_threads(threads(config.learner))

    def endpoint(self) -> tuple[str, int]:
        """An address and a free port of this rank's node, where the ranks can meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(self, address: str, port: int, learner: Path | None) -> None:
        """Join the other ranks, load the policy, and go on from the shards in `learner` where there are any."""
        config, pool = self._config, self._config.learner
        join_ranks(self._rank, pool.workers, address, port, on_gpu=pool.on_gpu, timeout=pool.timeout)
        self._processor = load_processor(config.model.path)
        torch.manual_seed(config.seed)  # the adapter's first weights are the same on every rank
        policy: Any = load_policy(config.model, config.lora)
        vocabulary_size = policy.get_output_embeddings().weight.shape[0]
        self._policy = policy
        self._scorer = PolicyScorer(
            policy, banned_token_ids(self._processor, vocabulary_size), config.rollout.temperature
        )
        self._trainer = ShardedTrainer(self._scorer, pool.optimizer, pool.sharding, config.model.dtype)
        self._trainer.engine.train()  # models come in evaluation mode, which leaves gradient checkpointing off
        if learner is not None:
            self._trainer.load(learner)

    def update(self, groups: Sequence[TrainingGroup], step: int) -> dict[str, float]:
        """One update from the whole batch; every rank is given all of it and takes its own share. Returns metrics."""
        self._logprobs = {}
        pieces = self._pieces(groups)
        aggregation = self._config.algorithm.aggregation
        units = sum(loss_units(piece.batch.trained, aggregation) for piece in pieces)
        all_units = self._trainer.total([float(units)])[0]
        sums: dict[str, float] = {}

        def loss_of(piece: Piece) -> Tensor:
            loss, metrics = self._loss(piece, all_units)
            tokens = metrics.pop("tokens")
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value * tokens
            sums["tokens"] = sums.get("tokens", 0.0) + tokens
            sums["loss"] = sums.get("loss", 0.0) + float(loss.detach())
            return loss

        rate = self._config.learner.optimizer.rate_at(step, self._config.steps)
        norm = self._trainer.update(pieces, loss_of, rate)
        names = sorted(sums)
        totals = dict(zip(names, self._trainer.total(sums[name] for name in names), strict=True))
        tokens = max(1.0, totals.pop("tokens"))
        loss = totals.pop("loss")
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise RuntimeError(f"update {step}: loss {loss} and gradient norm {norm} must be finite")
        metrics = {name: value / tokens for name, value in totals.items()}
        return {"loss": loss, "grad_norm": norm, "learning_rate": rate, "trained_tokens": tokens, **metrics}

    def trained_logprobs(self) -> dict[CompletionName, list[float]]:
        """Log-probabilities, in nats, of the tokens in this rank's share of the last update, by the policy before it."""
        return self._logprobs

    def divergences(self, groups: Sequence[ScoredGroup]) -> list[float]:
        """How far each completion takes the policy from itself without its adapter: estimates summed over its tokens.

        One value for each completion of the whole batch, in order, in nats, the same on every rank; all must take part.
        """
        names = [(g.group.prompt.index, sample) for g in groups for sample in range(len(g.group.completions))]
        sums = dict.fromkeys(names, 0.0)
        for piece in self._pieces([TrainingGroup(g, [0.0] * len(g.rewards)) for g in groups]):
            mask = piece.batch.trained
            with torch.no_grad():
                logprobs = self._spread(self._scorer(piece.batch), mask)
                divergence = kl_divergence(logprobs, self._reference(piece), self._config.algorithm.kl_kind)
            for name, value in zip(piece.completions, divergence.sum(dim=-1).tolist(), strict=True):
                sums[name] += value
        return self._trainer.total(sums.values())

    def connect(self, workers: Sequence[Any], ranks_per_engine: int, address: str, port: int) -> None:
        """From now on, send whole weights to the engines of these rollout workers; every rank must take part."""
        from actors.weight_transfer import Engines, Sender  # loads vLLM, which files need not

        source = WeightSource(self._policy.named_parameters(), self._trainer.whole)
        engines = Engines(workers, ranks_per_engine, self._config.rollout.timeout)
        self._sender = Sender(self._rank, engines, source, address, port)

    def publish(self, folder: Path, version: int) -> Published | Sent | None:
        """Hand the weights on as they are now: send them if connected, else write them below `folder`.

        Every rank must take part; rank 0 returns what it did.
        """
        if self._sender is not None:
            self._sender.send(version)
            return Sent(version)
        kind: type[Published] = FullWeights if self._config.lora is None else Adapter
        if self._rank == 0:
            return publish(folder, version, self.save_weights, kind)
        self.save_weights(None)
        return None

    def save_weights(self, folder: Path | None) -> None:
        """Write adapter or model to `folder`, in PEFT's or Hugging Face's format.

        Ranks other than 0 give None and only help to gather.
        """
        weights = gathered_weights(self._trainer, self._policy)
        if folder is not None:
            # PEFT files hold the adapter alone and name the base model, so stock PEFT and vLLM can open them
            self._policy.save_pretrained(folder, state_dict=weights)

    def save(self, folder: Path) -> None:
        """Write weights and optimizer shards into an unfinished checkpoint; every rank must take part."""
        self._trainer.save(folder / "learner")
        whole = self._config.lora is None
        weights = folder / ("model" if whole else "adapter")
        self.save_weights(weights if self._rank == 0 else None)
        if whole and self._rank == 0:
            self._processor.save_pretrained(weights)

    def _loss(self, piece: Piece, units: float) -> tuple[Tensor, dict[str, float]]:
        settings = self._config.algorithm
        mask = piece.batch.trained
        logprobs = self._spread(self._trainer.engine(piece.batch), mask)
        self._keep(piece, logprobs.detach())
        reference = self._reference(piece) if settings.kl_in_loss else None
        losses, metrics = objective(logprobs, piece.rollout_logprobs, piece.advantages, mask, settings, reference)
        max_tokens = self._config.rollout.max_tokens
        return aggregate(losses, mask, settings.aggregation, denominator=units, max_tokens=max_tokens), metrics

    def _keep(self, piece: Piece, logprobs: Tensor) -> None:
        """Note the log-probabilities [B, L] of trained tokens, for the run's record."""
        rows = zip(piece.completions, logprobs.float().cpu(), piece.batch.trained.cpu(), strict=True)
        self._logprobs |= {name: values[trained].tolist() for name, values, trained in rows if trained.any()}

    def _reference(self, piece: Piece) -> Tensor:
        """Log-probabilities [B, L] by the policy without its adapter."""
        with torch.no_grad(), self._policy.disable_adapter():
            return self._spread(self._scorer(piece.batch), piece.batch.trained)

    @staticmethod
    def _spread(values: Tensor, mask: Tensor) -> Tensor:
        """Put the values of trained tokens, [N] in row-major order, where they belong in [B, L]."""
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    def _pieces(self, groups: Sequence[TrainingGroup]) -> list[Piece]:
        """The passes of this rank over its share of the batch, as many as every other makes; all ranks must call it."""
        share = deal(groups, self._trainer.ranks)[self._rank]
        pieces = [self._piece(run) for run in runs_within(share, self._config.learner.sharding.micro_batch_tokens)]
        missing = self._trainer.most(len(pieces)) - len(pieces)
        return pieces + [self._padding(pieces, groups)] * missing if missing else pieces

    def _piece(self, groups: Sequence[TrainingGroup]) -> Piece:
        sequences, advantages, rollout_logprobs, images, completions = [], [], [], [], []
        masks_truncated = self._config.algorithm.truncated == "mask"
        for position, training in enumerate(groups):
            group = training.scored.group
            with Image.open(self._config.data / group.prompt.record.image) as file:
                images.append(file.convert("RGB"))
            given = [False] * len(group.prompt_ids)
            for sample, (completion, advantage) in enumerate(zip(group.completions, training.advantages, strict=True)):
                trains = not (masks_truncated and completion.truncated)
                ids = group.prompt_ids + completion.token_ids
                sequences.append(TokenSequence(ids, given + [trains] * len(completion.token_ids), position))
                advantages.append(advantage)
                rollout_logprobs += completion.logprobs if trains else []
                completions.append((group.prompt.index, sample))
        pad_id, device = self._processor.tokenizer.pad_token_id, self._trainer.device
        batch = collate(sequences, encode_images(self._processor, images), pad_id).to(device)
        reported = self._spread(torch.tensor(rollout_logprobs, device=device), batch.trained)
        return Piece(batch, torch.tensor(advantages, device=device), reported, completions)

    def _padding(self, pieces: list[Piece], groups: Sequence[TrainingGroup]) -> Piece:
        """A pass without a trained token, for a rank that has fewer than others."""
        piece = pieces[-1] if pieces else self._piece(groups[:1])
        reported = torch.zeros_like(piece.rollout_logprobs)
        return Piece(untrained(piece.batch), piece.advantages, reported, piece.completions)


def deal(groups: Sequence[TrainingGroup], ranks: int) -> list[list[TrainingGroup]]:
    """Deal groups out to ranks so that each has about the same number of tokens; the same on every rank."""
    shares: list[list[TrainingGroup]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for group in sorted(groups, key=lambda g: (-_padded_tokens(g), g.scored.group.prompt.index)):
        lightest = loads.index(min(loads))
        shares[lightest].append(group)
        loads[lightest] += _padded_tokens(group)
    return shares


def runs_within(groups: Sequence[TrainingGroup], token_budget: int) -> list[list[TrainingGroup]]:
    """Cut groups into runs of like length whose padded size is at most `token_budget`; a larger group stands alone."""
    runs: list[list[TrainingGroup]] = []
    size = 0
    for group in sorted(groups, key=lambda g: (-_longest(g), g.scored.group.prompt.index)):
        rows = len(group.scored.group.completions)
        width = _longest(runs[-1][0]) if runs else 0
        if runs and size + rows * width <= token_budget:
            runs[-1].append(group)
            size += rows * width
        else:
            runs.append([group])
            size = rows * _longest(group)
    return runs


def _longest(training: TrainingGroup) -> int:
    group = training.scored.group
    return len(group.prompt_ids) + max(len(completion.token_ids) for completion in group.completions)


def _padded_tokens(training: TrainingGroup) -> int:
    return _longest(training) * len(training.scored.group.completions)
