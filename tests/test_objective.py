"""The whole objective: as numpy has it, and with one gradient however a batch is ordered, padded and cut."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dermo_ray.algorithms import advantages, aggregate, loss_units, objective, overlong_penalty, sampled_entropy
from dermo_ray.algorithms.losses import policy_loss, token_losses
from dermo_ray.config.algorithm import PRESETS, AlgorithmSettings

ROWS, WIDTH, MAX_TOKENS = 8, 6, 9
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    **{name: {"preset": name} for name in PRESETS},
    "cispo": {"surrogate": "cispo", "clip_low": 1.0, "old_policy": "engine", "correction": None},
    "dual clip": {"dual_clip": 1.05, "old_policy": "engine", "correction": None},
    "icepop": {"correction": "icepop", "correction_low": 0.7, "correction_high": 1.4},
    "sequence mask": {"correction": "seq_mask_tis", "correction_low": 0.9, "correction_high": 1.1},
    "sequence rejection": {"correction": "seq_reject", "correction_low": 0.9, "correction_high": 1.1},
    "divergence k1": {"kl_coefficient": 0.1, "kl_kind": "k1"},
    "divergence k2": {"kl_coefficient": 0.1, "kl_kind": "k2"},
    "entropy": {"entropy_coefficient": 0.01},
}
variants = pytest.mark.parametrize("given_settings", VARIANTS.values(), ids=VARIANTS.keys())


class Batch:
    """Rows of unlike lengths, and a linear policy over 7 tokens whose weights the gradients are taken of."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.hidden = torch.randn(ROWS, WIDTH, 5, generator=generator, dtype=dtype)
        self.weights = torch.randn(5, 7, generator=generator, dtype=dtype, requires_grad=True)
        self.tokens = torch.randint(0, 7, (ROWS, WIDTH, 1), generator=generator)
        self.lengths = torch.randint(1, WIDTH + 1, (ROWS,), generator=generator)
        self.advantages = torch.randn(ROWS, generator=generator, dtype=dtype)
        self.noise = 0.4 * torch.randn(ROWS, WIDTH, generator=generator, dtype=dtype)
        self.ref_noise = 0.4 * torch.randn(ROWS, WIDTH, generator=generator, dtype=dtype)

    def inputs(self, rows: list[int], width: int | None = None, extra: int = 0, junk: float = 0.0) -> dict[str, Tensor]:
        """What `objective` takes for some rows, padded to the longest of them and by `extra` columns of `junk` more."""
        width = width or int(self.lengths[rows].max())
        logits = self.hidden[rows, :width] @ self.weights
        logprobs = logits.log_softmax(dim=-1).gather(-1, self.tokens[rows, :width]).squeeze(-1)
        mask = torch.arange(width + extra) < self.lengths[rows][:, None]

        def padded(values: Tensor) -> Tensor:
            wide = torch.cat([values, values.new_zeros(len(rows), extra)], dim=1)
            return wide.masked_fill(~mask, junk)

        return {
            "logprobs": padded(logprobs),
            "rollout_logprobs": padded(logprobs.detach() + self.noise[rows, :width]),
            "advantages": self.advantages[rows],
            "mask": mask,
            "ref_logprobs": padded(logprobs.detach() + self.ref_noise[rows, :width]),
        }

    def gradient(self, algorithm: AlgorithmSettings, cut: list[list[int]], **padding: Any) -> Tensor:
        """Of the weights, the rows dealt to micro-batches as `cut` says, each divided by the units of all rows."""
        units = sum(loss_units(self.inputs(rows)["mask"], algorithm.aggregation) for rows in cut)
        self.weights.grad = None
        for rows in cut:
            inputs = self.inputs(rows, **padding)
            losses, _ = objective(settings=algorithm, **inputs)
            scale = {"denominator": units, "max_tokens": MAX_TOKENS}
            aggregate(losses, inputs["mask"], algorithm.aggregation, **scale).backward()  # type: ignore[arg-type]
        assert self.weights.grad is not None
        return self.weights.grad.clone()


def apart(first: Tensor, second: Tensor) -> float:
    """The distance of two gradients, relative to their size."""
    return float((first - second).norm() / first.norm())


@variants
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_gradient_does_not_depend_on_the_size_of_micro_batches(size: int, given_settings: dict[str, Any]) -> None:
    algorithm, batch = AlgorithmSettings(**given_settings), Batch(seed=1)
    whole = batch.gradient(algorithm, [list(range(ROWS))])
    parts = [list(range(start, start + size)) for start in range(0, ROWS, size)]
    assert apart(whole, batch.gradient(algorithm, parts)) < 1e-5


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from(sorted(VARIANTS)),
    st.permutations(range(ROWS)),
    st.sets(st.integers(1, ROWS - 1)),
    st.integers(0, 3),
)
def test_the_gradient_does_not_depend_on_order_uneven_cuts_or_padding(
    seed: int, name: str, order: list[int], cuts: set[int], extra: int
) -> None:
    algorithm, batch = AlgorithmSettings(**VARIANTS[name]), Batch(seed)
    whole = batch.gradient(algorithm, [list(range(ROWS))])
    bounds = [0, *sorted(cuts), ROWS]
    parts = [order[start:stop] for start, stop in pairwise(bounds)]
    other = batch.gradient(algorithm, parts, extra=extra)
    assert float((whole - other).norm()) <= 1e-5 * float(whole.norm()) + 1e-8


@variants
def test_padding_that_is_not_a_number_changes_nothing(given_settings: dict[str, Any]) -> None:
    algorithm, batch = AlgorithmSettings(**given_settings), Batch(seed=2)
    rows = [list(range(ROWS))]
    assert torch.equal(batch.gradient(algorithm, rows), batch.gradient(algorithm, rows, junk=math.nan))


def reference_losses(inputs: dict[str, Tensor], new: np.ndarray[Any, Any], s: AlgorithmSettings) -> Any:
    """Per-token losses in numpy at log-probabilities `new`; what carries no gradient is computed from the inputs."""
    at = {name: value.detach().numpy() for name, value in inputs.items()}
    losses = np.zeros(new.shape)
    for row in range(len(new)):
        n = int(at["mask"][row].sum())
        frozen, now, engine, ref = (
            x[row, :n] for x in (at["logprobs"], new, at["rollout_logprobs"], at["ref_logprobs"])
        )
        advantage = at["advantages"][row]
        old = engine if s.old_policy == "engine" else frozen
        log_ratio, frozen_ratio = now - old, np.exp(frozen - old)
        if s.ratio == "sequence":
            log_ratio = np.full(n, log_ratio.mean())
        r = np.exp(log_ratio)
        if s.surrogate == "cispo":
            loss = -np.clip(frozen_ratio, 1 - s.clip_low, 1 + s.clip_high) * advantage * now
        else:
            gain = np.minimum(r * advantage, np.clip(r, 1 - s.clip_low, 1 + s.clip_high) * advantage)
            if s.dual_clip is not None and advantage < 0:
                gain = np.maximum(gain, s.dual_clip * advantage)
            loss = -gain
        if s.correction is not None:
            w = np.exp(frozen - engine)
            low, high = s.correction_low or 0.0, s.correction_high
            mean = np.exp(np.log(w).mean())
            loss = (
                loss
                * {
                    "tis": np.clip(w, low, high),
                    "icepop": np.where((w >= low) & (w <= high), w, 0),
                    "seq_mask_tis": w * (low <= mean <= high),
                    "seq_reject": np.full(n, float(low <= mean <= high)),
                }[s.correction]
            )
        if s.kl_in_loss:
            d = ref - now
            loss = loss + s.kl_coefficient * {"k1": -d, "k2": d**2 / 2, "k3": np.exp(d) - 1 - d}[s.kl_kind]
        if s.entropy_coefficient:
            loss = loss - s.entropy_coefficient * (-frozen) * (1 + now - frozen)
        losses[row, :n] = loss
    return losses


@variants
@pytest.mark.parametrize("seed", range(3))
def test_losses_and_gradients_are_those_of_numpy(seed: int, given_settings: dict[str, Any]) -> None:
    algorithm, inputs = AlgorithmSettings(**given_settings), Batch(seed, torch.float64).inputs(list(range(ROWS)))
    inputs["logprobs"] = inputs["logprobs"].detach().requires_grad_()
    losses, metrics = objective(settings=algorithm, **inputs)
    at = inputs["logprobs"].detach().numpy()
    np.testing.assert_allclose(losses.detach(), reference_losses(inputs, at, algorithm), rtol=1e-9, atol=1e-12)
    assert all(math.isfinite(value) for value in metrics.values())

    (gradient,) = torch.autograd.grad(losses.sum(), inputs["logprobs"])
    numeric, step = np.zeros_like(at), 1e-6
    for position in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[position] = step
        up, down = (reference_losses(inputs, at + sign * shift, algorithm).sum() for sign in (1, -1))
        numeric[position] = (up - down) / (2 * step)
    # with old_policy=learner the ratio stands where nothing is clipped; the surrogate is smooth there
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("old_policy", ["learner", "engine"])
def test_the_gap_to_the_engine_is_told_whatever_the_ratio_starts_from(old_policy: str) -> None:
    inputs = Batch(seed=3).inputs(list(range(ROWS)))
    _, metrics = objective(
        settings=AlgorithmSettings.model_validate({"old_policy": old_policy, "correction": None}), **inputs
    )
    gap = (inputs["logprobs"].detach() - inputs["rollout_logprobs"]).abs()[inputs["mask"]].mean()
    assert metrics["rollout_logprob_diff"] == pytest.approx(float(gap))
    assert (metrics["ratio_mean"] == pytest.approx(1.0)) == (old_policy == "learner")
    assert (metrics["clip_fraction"] > 0) == (old_policy == "engine")


def test_a_divergence_in_the_loss_needs_the_reference() -> None:
    inputs = Batch(seed=0).inputs([0])
    del inputs["ref_logprobs"]
    with pytest.raises(ValueError, match="needs ref_logprobs"):
        objective(settings=AlgorithmSettings(kl_coefficient=0.1), **inputs)


# the parts by hand


def one_token(ratio: float, advantage: float, **options: Any) -> tuple[float, float, dict[str, float]]:
    """Loss, gradient by the log-probability, and metrics of one token whose old log-probability is 0."""
    logprobs = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    losses, metrics = token_losses(logprobs, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1), **options)
    (gradient,) = torch.autograd.grad(losses.sum(), logprobs)
    return losses.item(), gradient.item(), metrics


@pytest.mark.parametrize(("ratio", "weight"), [(1.5, 1.28), (1.0, 1.0), (0.5, 0.8)])
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_cispo_bounds_the_weight_and_never_stops_the_gradient(ratio: float, weight: float, advantage: float) -> None:
    loss, gradient, metrics = one_token(ratio, advantage, surrogate="cispo", clip_high=0.28)
    assert loss == pytest.approx(-weight * advantage * math.log(ratio))
    assert gradient == pytest.approx(-weight * advantage)
    assert metrics["clip_fraction"] == (weight != ratio)


def test_cispo_without_a_lower_bound_keeps_small_weights() -> None:
    assert one_token(0.1, 1.0, surrogate="cispo", clip_low=1.0)[1] == pytest.approx(-0.1)


def test_the_dual_clip_bounds_the_loss_of_a_negative_advantage_alone() -> None:
    loss, gradient, metrics = one_token(5.0, -2.0, dual_clip=3.0)
    assert (loss, gradient, metrics["dual_clip_fraction"]) == (pytest.approx(6.0), 0.0, 1.0)
    assert one_token(2.0, -2.0, dual_clip=3.0)[:2] == pytest.approx((4.0, 4.0))
    assert one_token(0.1, 2.0, dual_clip=3.0)[:2] == pytest.approx((-0.2, -0.2))


@pytest.mark.parametrize("options", [{"dual_clip": 1.0}, {"dual_clip": 3.0, "surrogate": "cispo"}])
def test_a_dual_clip_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="dual_clip must be above 1 and belongs to ppo"):
        one_token(1.0, 1.0, **options)


def test_a_ratio_beyond_all_bounds_stays_finite() -> None:
    far, none = torch.full((2, 1), 500.0), torch.zeros(2, 1)
    logprobs = far.requires_grad_()
    result = policy_loss(logprobs, none, torch.tensor([-1.0, 0.0]), torch.ones(2, 1))
    result.loss.backward()
    assert math.isfinite(result.loss.item())
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()


def test_the_entropy_estimate_has_the_value_and_the_gradient_of_the_entropy_on_average() -> None:
    logits = torch.tensor([1.0, -0.5, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(dim=0)
    entropy = -(logprobs.exp() * logprobs).sum()
    (expected,) = torch.autograd.grad(entropy, logits, retain_graph=True)
    average = (logprobs.exp().detach() * sampled_entropy(logprobs[None])[0]).sum()
    (found,) = torch.autograd.grad(average, logits)
    assert average.item() == pytest.approx(entropy.item())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("length", "truncated", "share", "expected"),
    [
        (80, False, 0.2, 0.0),
        (81, False, 0.2, 0.05),
        (90, False, 0.2, 0.5),
        (100, False, 0.2, 1.0),
        (100, True, 0.2, 1.0),
        (60, True, 0.2, 1.0),  # cut by the engine's own limit
        (100, False, 0.0, 0.0),
        (100, True, 0.0, 1.0),
    ],
)
def test_the_overlong_penalty_by_hand(length: int, truncated: bool, share: float, expected: float) -> None:
    found = overlong_penalty(length, truncated=truncated, max_tokens=100, share=share)
    assert found == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, width=16), st.integers(0, 3)), min_size=1, max_size=16).flatmap(
        lambda pairs: st.tuples(st.just(pairs), st.permutations(range(len(pairs))))
    ),
    st.sampled_from(["grpo", "dr_grpo", "rloo", "reinforce_pp"]),
)
def test_advantages_follow_their_completions_into_any_order(
    drawn: tuple[list[tuple[float, int]], list[int]], estimator: str
) -> None:
    pairs, order = drawn
    straight = advantages([r for r, _ in pairs], [g for _, g in pairs], estimator)
    moved = advantages([pairs[i][0] for i in order], [pairs[i][1] for i in order], estimator)
    torch.testing.assert_close(moved, straight[order], rtol=1e-5, atol=1e-6)
