"""The learner rank: its share of every batch, one update, and the adapter that results.

Invariants: the trained token ids are the sampled ones, after the prompt ids the engine used; every rank takes part in
every update with the same number of passes; the gradient is that of the whole batch, however it is dealt out.
"""

import math
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from actors.adapters import Adapter, FullWeights, Published, publish
from actors.deepspeed_engine import ShardedTrainer, join_ranks
from actors.environment import threads
from actors.images import read_images
from actors.messages import CompletionName, ScoredGroup, TrainingGroup
from actors.pieces import Piece, assemble, deal, strands_of
from actors.whole_weights import WeightSource, gathered_weights
from dermo_ray.algorithms import aggregate, kl_divergence, loss_units, objective
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.models.batches import ImageFeatures, PromptImages, encode_images, micro_batches
from dermo_ray.models.chat import banned_token_ids, load_processor
from dermo_ray.models.policy import PolicyScorer, load_policy


class LearnerRank:
    """A Ray actor's class: rank `rank` of the learner pool."""

    def __init__(self, config: MavicConfig, rank: int) -> None:
        self._config = config
        self._rank = rank
        self._logprobs: dict[CompletionName, list[float]] = {}
        self._sender: Any = None
        """Sends whole weights to the engines that it has met."""
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
        policy: Any = load_policy(config.model, config.lora, vision=config.vision)
        vocabulary_size = policy.get_output_embeddings().weight.shape[0]
        self._policy = policy
        self._scorer = PolicyScorer(
            policy, banned_token_ids(self._processor, vocabulary_size), config.rollout.temperature
        )
        self._trainer = ShardedTrainer(self._scorer, pool.optimizer, pool.sharding, config.model.dtype)
        self._scorer.most = self._trainer.most
        self._trainer.engine.train()  # models come in evaluation mode, which leaves gradient checkpointing off
        if learner is not None:
            self._trainer.load(learner)

    def update(self, groups: Sequence[TrainingGroup], step: int) -> dict[str, float]:
        """One update from the whole batch; every rank is given all of it and takes its own share. Returns metrics."""
        self._logprobs = {}
        pieces = self._pieces(groups)
        aggregation = self._config.algorithm.aggregation
        masks = [piece.batch.attention_mask for piece in pieces]
        all_units, padded, filled = self._trainer.total(
            [
                float(sum(loss_units(piece.mask, aggregation) for piece in pieces)),
                sum(mask.numel() for mask in masks),
                float(sum(mask.sum() for mask in masks)),
            ]
        )
        sums: dict[str, float] = {}

        def loss_of(piece: Piece) -> Tensor:
            loss, found = self._loss(piece, all_units, step)
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
            return loss

        rate = self._config.learner.optimizer.rate_at(step, self._config.steps)
        norm = self._trainer.update(pieces, loss_of, rate)
        names = sorted(sums)
        totals = dict(zip(names, self._trainer.total(sums[name] for name in names), strict=True))
        tokens, fresh = max(1.0, totals.pop("tokens")), totals.pop("fresh_tokens")
        loss, engine_gap = totals.pop("loss"), totals.pop("engine_gap")
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise RuntimeError(f"update {step}: loss {loss} and gradient norm {norm} must be finite")
        metrics = {name: value / tokens for name, value in totals.items()}
        if fresh > 0:
            metrics["engine_gap"] = engine_gap / fresh
        return {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate,
            "trained_tokens": tokens,
            "padding": 1 - filled / padded,
            **metrics,
        }

    def trained_logprobs(self) -> dict[CompletionName, list[float]]:
        """Log-probabilities, in nats, of the tokens in this rank's share of the last update, just before it."""
        return self._logprobs

    def divergences(self, groups: Sequence[ScoredGroup]) -> list[float]:
        """How far each completion takes the policy from itself without its adapter: estimates summed over its tokens.

        One value for each completion of the whole batch, in order, in nats, the same on every rank; all must take part.
        """
        names = [(g.group.prompt.index, sample) for g in groups for sample in range(len(g.group.completions))]
        sums = dict.fromkeys(names, 0.0)
        for piece in self._pieces([TrainingGroup(g, [0.0] * len(g.rewards)) for g in groups]):
            piece = piece.to(self._trainer.device)
            with torch.no_grad():
                logprobs = piece.spread(self._scorer(piece.batch))
                divergence = kl_divergence(logprobs, self._reference(piece), self._config.algorithm.kl_kind)
            for name, value in zip(piece.completions, divergence.sum(dim=-1).tolist(), strict=True):
                sums[name] += value
        return self._trainer.total(sums.values())

    def connect(self, workers: Mapping[str, Any], ranks_per_engine: int, address: str, port: int) -> None:
        """Get ready to send whole weights to the engines of these rollout workers; every rank must take part."""
        from actors.weight_transfer import Engines, Sender  # loads vLLM, which files need not

        source = WeightSource(self._policy.named_parameters(), self._trainer.whole)
        # half of the pool's own deadline: it is the engine that is to be named, not the rank that waits for it
        timeout = min(self._config.rollout.timeout, self._config.learner.timeout / 2)
        engines = Engines(workers, ranks_per_engine, timeout)
        self._sender = Sender(self._rank, engines, source, address, port)

    def send(self, version: int) -> None:
        """Send the weights as they are now to the engines; every rank must take part."""
        self._sender.send(version)

    def publish(self, folder: Path, version: int) -> Published | None:
        """Write the weights below `folder` as they are now; every rank must take part, and rank 0 tells of them."""
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

    def _loss(self, piece: Piece, units: float, version: int) -> tuple[Tensor, dict[str, float]]:
        """The share of `piece` in the loss of the whole batch, and sums over its trained tokens."""
        settings = self._config.algorithm
        piece = piece.to(self._trainer.device)
        mask = piece.mask
        logprobs = piece.spread(self._trainer.engine(piece.batch))
        self._keep(piece, logprobs.detach())
        reference = self._reference(piece) if settings.kl_in_loss else None
        losses, means = objective(logprobs, piece.rollout_logprobs, piece.advantages, mask, settings, reference)
        max_tokens = self._config.rollout.max_tokens
        loss = aggregate(losses, mask, settings.aggregation, denominator=units, max_tokens=max_tokens)
        fresh = mask & (piece.versions == version)[:, None]
        gap = (logprobs.detach() - piece.rollout_logprobs).abs()[fresh]
        sums = {name: value * means["tokens"] for name, value in means.items() if name != "tokens"}
        return loss, {
            **sums,
            "tokens": means["tokens"],
            "loss": float(loss.detach()),
            "engine_gap": float(gap.sum()),
            "fresh_tokens": float(fresh.sum()),
        }

    def _keep(self, piece: Piece, logprobs: Tensor) -> None:
        """Note the log-probabilities [S, T] of trained tokens, for the run's record."""
        rows = zip(piece.completions, logprobs.float().cpu(), piece.mask.cpu(), strict=True)
        self._logprobs |= {name: values[trained].tolist() for name, values, trained in rows if trained.any()}

    def _reference(self, piece: Piece) -> Tensor:
        """Log-probabilities [S, T] by the policy without its adapter."""
        with torch.no_grad(), self._policy.disable_adapter():
            return piece.spread(self._scorer(piece.batch))

    def _pieces(self, groups: Sequence[TrainingGroup]) -> list[Piece]:
        """The passes of this rank over its share of the batch, as many as every other makes; all ranks must call it."""
        own = deal(groups, self._trainer.ranks)[self._rank]
        share = own or groups[:1]  # a rank without a group takes part with nothing to train
        budget, pad_id = self._config.learner.sharding.micro_batch_tokens, self._processor.tokenizer.pad_token_id
        with ThreadPoolExecutor(torch.get_num_threads()) as executor:
            images = list(executor.map(self._images, share))
        features = self._features(images) if self._config.vision == "frozen" else None
        strands = strands_of(
            share,
            budget,
            share=self._scorer.takes_branches,
            mask_truncated=self._config.algorithm.truncated == "mask",
        )
        # a tower that is trained sees an image once in every pass that shows it, so completions of it stay together
        groups_of = None if features is not None else [strand.position for strand in strands]
        cut = micro_batches([len(strand) for strand in strands], budget, groups_of)
        pieces = [assemble([strands[at] for at in positions], images, pad_id, features) for positions in cut]
        if not own:
            pieces = [piece.untrained for piece in pieces]
        return pieces + [pieces[-1].untrained] * (self._trainer.most(len(pieces)) - len(pieces))

    def _images(self, training: TrainingGroup) -> PromptImages:
        return encode_images(self._processor, read_images(training.scored.group.prompt, self._config.data))

    def _features(self, images: Sequence[PromptImages]) -> list[ImageFeatures]:
        """What the frozen vision tower makes of each prompt's images: once, for all its completions and all passes.

        The same for policy and reference. All ranks must call it, for they make as many passes as each other.
        """
        sizes = [max(len(tensor) for tensor in own.tensors.values()) for own in images]  # patches
        cut = micro_batches(sizes, self._config.learner.sharding.micro_batch_tokens)
        found: dict[int, ImageFeatures] = {}
        for positions in cut + [cut[-1]] * (self._trainer.most(len(cut)) - len(cut)):
            tensors = {
                name: torch.cat([images[position].tensors[name] for position in positions]).to(self._trainer.device)
                for name in images[positions[0]].tensors
            }
            with torch.no_grad():
                features = self._scorer.image_features(tensors, [images[position].count for position in positions])
            found |= dict(zip(positions, features, strict=True))
        return [found[position] for position in range(len(images))]
