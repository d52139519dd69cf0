"""Settings of the policy-gradient objective, and the published recipes by name.

Invariant: what a preset says is only a default. A setting that is given, in the file or on the command line, wins, and
the loaded model holds every resolved value, so that a run's `config.yaml` reads the same without its preset.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from dermo_ray.config.base import Settings

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {
        "estimator": "grpo",
        "aggregation": "seq_mean_token_mean",
        "kl_coefficient": 0.04,
        "kl_kind": "k3",
        "kl_place": "loss",
    },
    "dr_grpo": {
        "estimator": "dr_grpo",
        "aggregation": "seq_mean_token_sum_norm",
        "kl_coefficient": 0.0,
    },
    "dapo": {
        "estimator": "grpo",
        "clip_low": 0.2,
        "clip_high": 0.28,
        "dual_clip": 10.0,
        "old_policy": "engine",
        "correction": None,
        "aggregation": "token_mean",
        "kl_coefficient": 0.0,
        "dynamic_sampling": True,
        "overlong_share": 0.2,
        "overlong_penalty": 0.5,
        "truncated": "penalise",
    },
    "gspo": {
        "estimator": "grpo",
        "ratio": "sequence",
        "clip_low": 3e-4,
        "clip_high": 4e-4,
        "old_policy": "engine",
        "correction": None,
        "aggregation": "seq_mean_token_mean",
        "kl_coefficient": 0.0,
    },
    "rloo": {
        "estimator": "rloo",
        "aggregation": "seq_mean_token_sum_norm",
        "kl_coefficient": 0.05,
        "kl_kind": "k1",
        "kl_place": "reward",
    },
    "reinforce_pp": {
        "estimator": "reinforce_pp",
        "aggregation": "token_mean",
        "kl_coefficient": 0.01,
        "kl_kind": "k1",
        "kl_place": "reward",
    },
}
"""What each preset sets apart from the defaults; docs/algorithms.md gives the papers."""


class AlgorithmSettings(Settings):
    """The policy-gradient objective; docs/algorithms.md gives the formulas."""

    preset: Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce_pp"] | None = None
    """A published recipe: it fills in the settings below that are not given; null leaves them at their defaults."""
    estimator: Literal["grpo", "dr_grpo", "rloo", "reinforce_pp"] = "grpo"
    """How rewards become advantages."""
    surrogate: Literal["ppo", "cispo"] = "ppo"
    """What is clipped: the objective, so that clipped tokens lose their gradient (PPO), or the weight of the gradient,
    so that all tokens keep one (CISPO)."""
    ratio: Literal["token", "sequence"] = "token"
    """Ratio of each token, or of the whole sequence (GSPO)."""
    old_policy: Literal["learner", "engine"] = "learner"
    """Whose log-probabilities the ratio starts from: the learner's when the batch began, so that it is 1 and what lies
    between engine and learner is left to the correction, or the engine's, so that the clip bounds act on both age and
    numerical gap."""
    clip_low: float = Field(default=0.2, gt=0, le=1)
    """How far below 1 the ratio may fall before it is clipped."""
    clip_high: float = Field(default=0.2, gt=0)
    """How far above 1 the ratio may rise before it is clipped."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Largest multiple of a negative advantage that a token's loss may reach; null sets no limit."""
    aggregation: Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum_norm"] = "token_mean"
    """How token losses become one number."""
    correction: Literal["tis", "icepop", "seq_mask_tis", "seq_reject"] | None = "tis"
    """Importance weight between the engine's log-probabilities and the learner's."""
    correction_low: float | None = Field(default=None, ge=0)
    """Lower bound of the weight."""
    correction_high: float | None = Field(default=2.0, gt=0)
    """Upper bound of the weight."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the policy without its adapter; 0 leaves the extra forward pass out."""
    kl_kind: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of that divergence."""
    kl_place: Literal["loss", "reward"] = "loss"
    """Whether it is added to each token's loss, or its sum over a completion is taken off the reward."""
    entropy_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus."""
    dynamic_sampling: bool = False
    """Replace groups that teach nothing, their rewards being equal, by groups of further prompts."""
    max_refill: int = Field(default=3, ge=1)
    """Most groups replaced in one update, in multiples of batch_groups; beyond it such groups are trained on."""
    overlong_share: float = Field(default=0.0, ge=0, lt=1)
    """Last part of max_tokens, as a share, over which overlong_penalty rises from 0 in a straight line."""
    overlong_penalty: float = Field(default=0.0, ge=0)
    """Taken off the reward of a completion that reaches max_tokens, unless `truncated` keeps it."""
    truncated: Literal["keep", "mask", "penalise"] = "keep"
    """Completions that max_tokens cut: train on them as on any other, leave their tokens out of the loss, or take
    overlong_penalty off their reward."""
    max_logprob_gap: float = Field(default=0.5, gt=0)
    """Stop where engine and learner disagree by more than this on average about completions of the learner's own
    version, in nats: then the engine does not serve the weights it says."""

    @property
    def kl_in_loss(self) -> bool:
        """Whether each token's loss holds the divergence."""
        return self.kl_coefficient > 0 and self.kl_place == "loss"

    @property
    def kl_in_reward(self) -> bool:
        """Whether rewards hold the divergence."""
        return self.kl_coefficient > 0 and self.kl_place == "reward"

    @model_validator(mode="before")
    @classmethod
    def _preset_fills_in(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("preset"), str):
            return given
        return {**PRESETS.get(given["preset"], {}), **given}

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "AlgorithmSettings":
        if self.correction is not None:
            if self.correction_high is None:
                raise ValueError("correction needs correction_high")
            if self.correction_low is not None and self.correction_low > self.correction_high:
                raise ValueError("correction_low must be at most correction_high")
            if self.old_policy == "engine":
                raise ValueError(
                    "with old_policy=engine the ratio holds all that a correction would correct: "
                    "give correction=null, or old_policy=learner"
                )
        if self.dual_clip is not None and self.surrogate != "ppo":
            raise ValueError("dual_clip is part of surrogate=ppo: give dual_clip=null")
        if self.overlong_share > 0 and self.overlong_penalty == 0:
            raise ValueError("overlong_share needs an overlong_penalty above 0")
        if self.overlong_penalty > 0 and self.truncated == "keep":
            raise ValueError("overlong_penalty needs truncated=penalise, or truncated=mask to cut the loss as well")
        if self.overlong_penalty == 0 and self.truncated == "penalise":
            raise ValueError("truncated=penalise needs an overlong_penalty above 0")
        return self
