"""Advantages, losses, KL and corrections against values worked by hand and against naive loops."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dermo_ray.algorithms import advantages, aggregate, kl_divergence, loss_units, policy_loss, token_losses

AGGREGATION_NAMES = ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum_norm"]


def batch(sequences: int = 8, width: int = 6, seed: int = 0) -> dict[str, Any]:
    """Random inputs with sequences of unlike lengths."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old = -random(sequences, width).abs()
    lengths = torch.randint(1, width + 1, (sequences,), generator=generator)
    return {
        "logprobs": (old + 0.3 * random(sequences, width)).requires_grad_(),
        "old_logprobs": old,
        "advantages": random(sequences),
        "mask": torch.arange(width) < lengths[:, None],
        "rollout_logprobs": old + 0.3 * random(sequences, width),
    }


def one_token(ratio: float, advantage: float, **settings: Any) -> tuple[float, float]:
    """Loss and gradient with respect to the log-probability of a single token."""
    logprobs = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    result = policy_loss(logprobs, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1), **settings)
    result.loss.backward()
    assert logprobs.grad is not None
    return result.loss.item(), logprobs.grad.item()


# advantages


def test_grpo_subtracts_the_mean_and_divides_by_the_unbiased_std() -> None:
    # groups {1, 3} and {0, 0, 3}: means 2 and 1, unbiased std sqrt(2) and sqrt(3)
    result = advantages(torch.tensor([1.0, 0.0, 3.0, 0.0, 3.0]), [7, 2, 7, 2, 2], "grpo", eps=0.0)
    expected = [-1 / math.sqrt(2), -1 / math.sqrt(3), 1 / math.sqrt(2), -1 / math.sqrt(3), 2 / math.sqrt(3)]
    assert result.tolist() == pytest.approx(expected, abs=1e-6)


def test_grpo_adds_eps_to_the_std() -> None:
    result = advantages([0.0, 2.0], [0, 0], eps=1.0)
    assert result.tolist() == pytest.approx([-1 / (math.sqrt(2) + 1), 1 / (math.sqrt(2) + 1)])


def test_dr_grpo_only_subtracts_the_mean() -> None:
    assert advantages([1.0, 0.0, 3.0, 0.0, 3.0], [7, 2, 7, 2, 2], "dr_grpo").tolist() == [-1, -1, 1, -1, 2]


def test_rloo_subtracts_the_mean_of_the_others() -> None:
    # group 2 is {0, 0, 3}: baselines 1.5, 1.5, 0; group 7 is {1, 3}: baselines 3, 1
    result = advantages([1.0, 0.0, 3.0, 0.0, 3.0], [7, 2, 7, 2, 2], "rloo")
    assert result.tolist() == pytest.approx([-2, -1.5, 2, -1.5, 3])


def test_reinforce_pp_normalises_over_the_batch_whatever_the_groups() -> None:
    # mean 1.5, squared deviations 2.25, 2.25, 0.25, 6.25, unbiased variance 11 / 3
    std = math.sqrt(11 / 3)
    expected = [-1.5 / std, -1.5 / std, 0.5 / std, 2.5 / std]
    assert advantages([0.0, 0.0, 2.0, 4.0], [0, 0, 1, 1], "reinforce_pp").tolist() == pytest.approx(expected, rel=1e-5)
    assert advantages([0.0, 0.0, 2.0, 4.0], [5, 4, 3, 2], "reinforce_pp").tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo"])
def test_a_singleton_and_a_constant_group_get_exactly_zero(estimator: str) -> None:
    result = advantages(torch.tensor([0.7, 0.1, 0.1, 0.1]), torch.tensor([3, 1, 1, 1]), estimator, eps=0.0)
    assert result.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("rewards", [[0.3], [0.1] * 7, []])
def test_reinforce_pp_of_one_completion_or_equal_rewards_is_zero(rewards: list[float]) -> None:
    assert advantages(rewards, torch.arange(len(rewards)), "reinforce_pp", eps=0.0).tolist() == [0] * len(rewards)


def naive_advantage(rewards: list[float], ids: list[int], i: int, estimator: str) -> float:
    """One advantage, written as the papers define it."""
    if estimator == "reinforce_pp":
        ids = [0] * len(ids)
    group = [r for r, g in zip(rewards, ids, strict=True) if g == ids[i]]
    if len(group) == 1 or max(group) == min(group):
        return 0.0
    mean = sum(group) / len(group)
    if estimator == "rloo":
        return rewards[i] - (sum(group) - rewards[i]) / (len(group) - 1)
    if estimator == "dr_grpo":
        return rewards[i] - mean
    return (rewards[i] - mean) / (math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1)) + 1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, width=16), st.integers(-3, 3)), min_size=1, max_size=24),
    st.sampled_from(["grpo", "dr_grpo", "rloo", "reinforce_pp"]),
)
def test_advantages_equal_a_naive_loop_for_any_grouping(pairs: list[tuple[float, int]], estimator: str) -> None:
    rewards, ids = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    result = advantages(torch.tensor(rewards, dtype=torch.float64), torch.tensor(ids), estimator)
    expected = [naive_advantage(rewards, ids, i, estimator) for i in range(len(rewards))]
    assert result.tolist() == pytest.approx(expected, rel=1e-7, abs=1e-10)
    assert result.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_named_by_its_index(bad: float) -> None:
    with pytest.raises(ValueError, match=r"reward is not finite: index 2"):
        advantages([0.0, 1.0, bad, bad], [0, 0, 0, 0])


def test_wrong_shapes_ids_and_estimators_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must both be \[B\]"):
        advantages([0.0, 1.0], [0, 0, 0])
    with pytest.raises(ValueError, match=r"must both be \[B\]"):
        advantages(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="integers"):
        advantages([0.0, 1.0], torch.tensor([0.0, 0.0]))
    with pytest.raises(ValueError, match=r"unknown advantage estimator 'gae'.*rloo"):
        advantages([0.0, 1.0], [0, 0], "gae")


# the clipped loss


def test_on_policy_the_loss_is_minus_the_advantage_and_so_is_the_gradient() -> None:
    assert one_token(1.0, 2.0) == pytest.approx((-2.0, -2.0))
    assert one_token(1.0, -2.0) == pytest.approx((2.0, 2.0))


def test_above_the_high_clip_only_a_positive_advantage_loses_its_gradient() -> None:
    assert one_token(1.5, 1.0, clip_high=0.28) == pytest.approx((-1.28, 0.0))
    assert one_token(1.5, -1.0, clip_high=0.28) == pytest.approx((1.5, 1.5))


def test_below_the_low_clip_only_a_negative_advantage_loses_its_gradient() -> None:
    assert one_token(0.5, -1.0, clip_low=0.1) == pytest.approx((0.9, 0.0))
    assert one_token(0.5, 1.0, clip_low=0.1) == pytest.approx((-0.5, -0.5))


def test_the_three_aggregations_by_hand() -> None:
    # ratio 1 everywhere; losses are minus the advantages: lengths 1 and 3, advantages 1 and 2
    zeros, mask = torch.zeros(2, 3), torch.tensor([[1, 0, 0], [1, 1, 1]])
    values = {
        name: policy_loss(zeros, zeros, torch.tensor([1.0, 2.0]), mask, aggregation=name, max_tokens=4).loss.item()
        for name in AGGREGATION_NAMES
    }
    assert values["token_mean"] == pytest.approx(-(1 + 2 + 2 + 2) / 4)
    assert values["seq_mean_token_mean"] == pytest.approx(-(1 + 2) / 2)
    assert values["seq_mean_token_sum_norm"] == pytest.approx(-(1 / 4 + 6 / 4) / 2)


def test_the_sequence_ratio_is_the_geometric_mean_and_carries_the_gradient_to_every_token() -> None:
    # log ratios 0.1 and 0.3: s = e^0.2; d(-s)/d logp_t = -s / 2 for each of the two tokens
    logprobs = torch.tensor([[0.1, 0.3, 9.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0]])
    result = policy_loss(logprobs, torch.zeros(1, 3), torch.ones(1), mask, ratio="sequence", clip_high=1.0)
    result.loss.backward()
    s = math.exp(0.2)
    assert result.loss.item() == pytest.approx(-s, rel=1e-6)
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([-s / 2, -s / 2, 0], rel=1e-6)
    assert result.metrics["ratio_mean"] == pytest.approx(s, rel=1e-6)


def test_the_sequence_ratio_clips_a_sequence_as_a_whole() -> None:
    # token ratios e^0.9 and e^-0.5 would both clip by themselves; their sequence ratio e^0.2 = 1.22 does at 0.2
    logprobs = torch.tensor([[0.9, -0.5]], requires_grad=True)
    result = policy_loss(logprobs, torch.zeros(1, 2), torch.ones(1), torch.ones(1, 2), ratio="sequence")
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-1.2)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[0, 0]]
    assert result.metrics["clip_fraction_high"] == 1


def naive_loss(inputs: dict[str, Any], ratio: str, aggregation: str, low: float, high: float) -> float:
    """The same objective, in Python floats, token by token."""
    sequences = []
    for row in range(len(inputs["mask"])):
        tokens = [t for t in range(inputs["mask"].shape[1]) if inputs["mask"][row, t]]
        logs = [float(inputs["logprobs"][row, t].detach() - inputs["old_logprobs"][row, t]) for t in tokens]
        advantage, losses = float(inputs["advantages"][row]), []
        for log in logs:
            r = math.exp(log if ratio == "token" else sum(logs) / len(logs))
            losses.append(-min(r * advantage, min(max(r, 1 - low), 1 + high) * advantage))
        sequences.append(losses)
    if aggregation == "token_mean":
        return sum(map(sum, sequences)) / sum(map(len, sequences))
    if aggregation == "seq_mean_token_mean":
        return sum(sum(losses) / len(losses) for losses in sequences) / len(sequences)
    return sum(sum(losses) / 10 for losses in sequences) / len(sequences)


@pytest.mark.parametrize("aggregation", AGGREGATION_NAMES)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_equals_a_naive_loop(seed: int, ratio: str, aggregation: str) -> None:
    inputs = batch(seed=seed)
    del inputs["rollout_logprobs"]
    options: dict[str, Any] = {
        "clip_low": 0.1,
        "clip_high": 0.25,
        "ratio": ratio,
        "aggregation": aggregation,
        "max_tokens": 10,
    }
    result = policy_loss(**inputs, **options)
    assert result.loss.item() == pytest.approx(naive_loss(inputs, ratio, aggregation, 0.1, 0.25), rel=1e-9)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_gradient_equals_finite_differences(ratio: str) -> None:
    inputs = batch(sequences=3, width=4)
    logprobs = inputs.pop("logprobs")

    def loss(values: Tensor) -> Tensor:
        return policy_loss(values, **inputs, ratio=ratio, correction="tis", correction_high=1.2).loss

    assert torch.autograd.gradcheck(loss, (logprobs,))


def test_one_advantage_a_sequence_is_the_same_advantage_at_each_token() -> None:
    inputs = batch()
    spread = inputs | {"advantages": inputs["advantages"][:, None].expand(8, 6)}
    assert policy_loss(**inputs).loss.item() == policy_loss(**spread).loss.item()


def test_metrics_by_hand() -> None:
    # ratios 1.5, 0.5, 1, with advantages 1, -1, 1: one token clipped on each side; the fourth is padding
    logprobs = torch.tensor([[1.5, 0.5, 1.0, 50.0]]).log()
    adv, mask = torch.tensor([[1.0, -1.0, 1.0, 1.0]]), torch.tensor([[1, 1, 1, 0]])
    rollout = torch.tensor([[0.0, -0.3, 0.3, 7.0]])
    metrics = policy_loss(logprobs, torch.zeros(1, 4), adv, mask, rollout_logprobs=rollout).metrics
    kl = (0.5 - math.log(1.5) - 0.5 - math.log(0.5)) / 3
    assert metrics == pytest.approx(
        {
            "clip_fraction": 2 / 3,
            "clip_fraction_low": 1 / 3,
            "clip_fraction_high": 1 / 3,
            "ratio_mean": 1.0,
            "approx_kl": kl,
            "rollout_logprob_diff": 0.2,
            "tokens": 3,
        },
        rel=1e-5,
    )
    assert all(isinstance(value, float) for value in metrics.values())


# what must not matter


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("aggregation", AGGREGATION_NAMES)
def test_an_empty_mask_gives_a_finite_zero_that_can_be_differentiated(aggregation: str, ratio: str) -> None:
    logprobs = torch.zeros(2, 3, requires_grad=True)
    empty = torch.zeros(2, 3)
    result = policy_loss(logprobs, empty, torch.ones(2), empty, ratio=ratio, aggregation=aggregation, max_tokens=3)
    result.loss.backward()
    assert result.loss.item() == 0
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == empty.tolist()
    assert all(math.isfinite(value) for value in result.metrics.values())


@pytest.mark.parametrize("correction", [None, "tis", "icepop", "seq_mask_tis", "seq_reject"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_padding_of_any_value_changes_neither_loss_nor_gradient(ratio: str, correction: str | None) -> None:
    inputs = batch()
    options: dict[str, Any] = {"ratio": ratio, "correction": correction, "correction_low": 0.5, "correction_high": 1.5}
    expected = policy_loss(**inputs, **options)
    expected.loss.backward()
    dirty = {k: v if k in ("mask", "advantages") else v.detach().clone() for k, v in inputs.items()}
    for name, junk in (("logprobs", math.nan), ("old_logprobs", -math.inf), ("rollout_logprobs", math.nan)):
        dirty[name][~inputs["mask"]] = junk
    dirty["logprobs"].requires_grad_()
    result = policy_loss(**dirty, **options)
    result.loss.backward()
    assert result.loss.item() == expected.loss.item()
    assert torch.equal(dirty["logprobs"].grad, inputs["logprobs"].grad)
    assert result.metrics == expected.metrics


def test_gradients_reach_the_learners_logprobs_alone() -> None:
    inputs = batch()
    for name in ("old_logprobs", "advantages", "rollout_logprobs"):
        inputs[name].requires_grad_()
    policy_loss(**inputs, correction="tis", correction_high=2.0).loss.backward()
    assert inputs["logprobs"].grad is not None
    assert all(inputs[name].grad is None for name in ("old_logprobs", "advantages", "rollout_logprobs"))


def test_half_precision_inputs_are_computed_in_float32() -> None:
    logprobs = torch.full((1, 4), -1.0, dtype=torch.bfloat16, requires_grad=True)
    loss = policy_loss(logprobs, torch.full((1, 4), -1.0), torch.tensor([0.123]), torch.ones(1, 4)).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-0.123)


@pytest.mark.parametrize("cuts", [[0, 8], [0, 4, 8], [0, 2, 4, 6, 8], list(range(9)), [0, 1, 6, 8], [0, 7, 8]])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("aggregation", AGGREGATION_NAMES)
def test_micro_batches_sum_to_the_whole_batch(aggregation: str, ratio: str, cuts: list[int]) -> None:
    inputs = {k: v.detach().float() if v.is_floating_point() else v for k, v in batch(seed=5).items()}
    inputs["mask"][2] = False  # a sequence that is masked out is no unit, wherever the cut falls
    inputs["logprobs"].requires_grad_()
    options: dict[str, Any] = {"ratio": ratio, "correction": "tis", "correction_high": 1.3}
    whole = policy_loss(**inputs, **options, aggregation=aggregation, max_tokens=9)
    (expected,) = torch.autograd.grad(whole.loss, inputs["logprobs"])

    denominator = loss_units(inputs["mask"], aggregation)
    total, tokens, clipped = 0.0, 0.0, 0.0
    for start, stop in pairwise(cuts):
        # each micro-batch is padded to its own longest sequence
        width = max(1, int(inputs["mask"][start:stop].sum(dim=-1).max()))
        micro = {k: v[start:stop, :width] if v.dim() == 2 else v[start:stop] for k, v in inputs.items()}
        losses, metrics = token_losses(**micro, **options)
        loss = aggregate(losses, micro["mask"], aggregation, denominator=denominator, max_tokens=9)
        loss.backward()
        total += loss.item()
        tokens += metrics["tokens"]
        clipped += metrics["tokens"] * metrics["clip_fraction"]
    assert total == pytest.approx(whole.loss.item(), abs=1e-6)
    assert inputs["logprobs"].grad is not None
    torch.testing.assert_close(inputs["logprobs"].grad, expected, rtol=1e-5, atol=1e-7)
    assert clipped / tokens == pytest.approx(whole.metrics["clip_fraction"], abs=1e-6)


def test_loss_units_count_tokens_or_sequences_with_a_token() -> None:
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
    assert loss_units(mask, "token_mean").item() == 3
    assert loss_units(mask, "seq_mean_token_mean").item() == 2
    assert loss_units(mask, "seq_mean_token_sum_norm").item() == 2


# corrections: w = 0.5, 1, 3 in one sequence, geometric mean 1.5^(1/3) = 1.145


@pytest.mark.parametrize(
    ("correction", "low", "high", "expected"),
    [
        ("tis", None, 2.0, [0.5, 1.0, 2.0]),
        ("tis", 0.8, 2.0, [0.8, 1.0, 2.0]),
        ("icepop", None, 2.0, [0.5, 1.0, 0.0]),
        ("icepop", 0.8, 5.0, [0.0, 1.0, 3.0]),
        ("seq_mask_tis", 1.1, 1.2, [0.5, 1.0, 3.0]),
        ("seq_mask_tis", 1.2, 2.0, [0.0, 0.0, 0.0]),
        ("seq_mask_tis", None, 1.1, [0.0, 0.0, 0.0]),
        ("seq_reject", 1.1, 1.2, [1.0, 1.0, 1.0]),
        ("seq_reject", 1.2, 2.0, [0.0, 0.0, 0.0]),
    ],
)
def test_corrections_by_hand(correction: str, low: float | None, high: float, expected: list[float]) -> None:
    logprobs = torch.zeros(1, 4, requires_grad=True)
    rollout = -torch.tensor([[0.5, 1.0, 3.0, 40.0]]).log()
    losses, metrics = token_losses(
        logprobs,
        torch.zeros(1, 4),
        torch.ones(1),
        torch.tensor([[1, 1, 1, 0]]),
        rollout_logprobs=rollout,
        correction=correction,
        correction_low=low,
        correction_high=high,
    )
    losses.sum().backward()
    negated = [-w for w in expected]
    assert losses[0].tolist() == pytest.approx([*negated, 0])
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([*negated, 0])
    assert metrics["correction_mean"] == pytest.approx(sum(expected) / 3)
    assert metrics["masked_fraction"] == pytest.approx(expected.count(0.0) / 3)
    changed = sum(abs(w - raw) > 1e-5 for w, raw in zip(expected, [0.5, 1.0, 3.0], strict=True))
    assert metrics["corrected_fraction"] == pytest.approx(changed / 3)


def test_corrections_of_an_extreme_mismatch_stay_finite() -> None:
    zeros, ones = torch.zeros(1, 2), torch.ones(1, 2)
    for correction in ("tis", "icepop", "seq_mask_tis", "seq_reject"):
        rollout = torch.tensor([[-200.0, -150.0]])
        result = policy_loss(
            zeros, zeros, ones[0, :1], ones, rollout_logprobs=rollout, correction=correction, correction_high=2.0
        )
        assert result.loss.item() == (-2.0 if correction == "tis" else 0.0)


def test_a_correction_without_its_inputs_is_refused() -> None:
    inputs = batch()
    rollout = inputs.pop("rollout_logprobs")
    with pytest.raises(ValueError, match="needs rollout_logprobs"):
        policy_loss(**inputs, correction="tis", correction_high=2.0)
    with pytest.raises(ValueError, match="correction_low <= correction_high"):
        policy_loss(**inputs, rollout_logprobs=rollout, correction="icepop", correction_low=0.5)
    with pytest.raises(ValueError, match="correction_low <= correction_high"):
        policy_loss(**inputs, rollout_logprobs=rollout, correction="tis", correction_low=3, correction_high=2)


def test_wrong_shapes_and_unknown_names_are_refused() -> None:
    inputs = batch()
    wrong = {"logprobs": torch.zeros(8), "old_logprobs": torch.zeros(8, 5), "mask": torch.ones(8, 1)}
    wrong |= {"advantages": torch.zeros(6), "rollout_logprobs": torch.zeros(6, 8)}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            policy_loss(**(inputs | {name: value}))
    for name in ("ratio", "surrogate", "aggregation", "correction"):
        with pytest.raises(ValueError, match=f"unknown {name} 'nonsense'"):
            policy_loss(**(inputs | {name: "nonsense"}), correction_high=1.0)
    with pytest.raises(ValueError, match="max_tokens"):
        policy_loss(**inputs, aggregation="seq_mean_token_sum_norm")
    with pytest.raises(ValueError, match=r"both be \[B, T\]"):
        aggregate(torch.zeros(2, 3), torch.zeros(2, 2))


# KL


@pytest.mark.parametrize(("kind", "expected"), [("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) - 1 + 0.5)])
def test_kl_estimators_by_hand(kind: str, expected: float) -> None:
    result = kl_divergence(torch.tensor([[-1.0]]), torch.tensor([[-1.5]]), kind)
    assert result.tolist() == [[pytest.approx(expected)]]


def test_k3_is_never_negative_and_is_zero_for_equal_policies() -> None:
    inputs = batch()
    assert (kl_divergence(inputs["logprobs"], inputs["old_logprobs"]) >= 0).all()
    assert (kl_divergence(inputs["logprobs"], inputs["logprobs"]) == 0).all()


def test_k1_and_k3_average_to_the_true_divergence() -> None:
    policy = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    reference = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    truth = (policy * (policy / reference).log()).sum().item()
    for kind in ("k1", "k3"):
        per_outcome = kl_divergence(policy.log()[None], reference.log()[None], kind)[0]
        assert (policy * per_outcome).sum().item() == pytest.approx(truth)


def test_kl_gradients_by_hand() -> None:
    # d = -0.5: dk1/dlogp = 1, dk2/dlogp = -d, dk3/dlogp = 1 - e^d
    for kind, expected in (("k1", 1.0), ("k2", 0.5), ("k3", 1 - math.exp(-0.5))):
        logprobs = torch.tensor([[-1.0]], requires_grad=True)
        kl_divergence(logprobs, torch.tensor([[-1.5]]), kind).backward()
        assert logprobs.grad is not None
        assert logprobs.grad.item() == pytest.approx(expected, rel=1e-6)


def test_kl_refuses_unequal_shapes_and_unknown_kinds() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="unknown KL estimator 'k4'"):
        kl_divergence(torch.zeros(1, 1), torch.zeros(1, 1), "k4")
