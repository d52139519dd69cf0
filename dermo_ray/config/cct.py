"""Settings of confidence-consistency test-time inference (CCT)."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from dermo_ray.config.base import AbsolutePath, Settings

ViewName = Literal[
    "identity",
    "flip_horizontal",
    "flip_vertical",
    "quarter_turn_left",
    "quarter_turn_right",
    "half_turn",
    "light_crop",
    "colour_constancy",
    "large_crop",
    "hue_shift",
    "even_light",
    "even_light_flip_horizontal",
    "even_light_quarter_turn_left",
    "even_light_half_turn",
]
"""Every view there is. `large_crop` may cut a finding off, and `hue_shift` change what its colour means."""


class ViewSettings(Settings):
    """Which views of an image are shown, by modality; the untouched image comes first."""

    clinical: tuple[ViewName, ...] = ("identity", "flip_horizontal", "light_crop", "quarter_turn_left")
    """Of clinical photographs; no colour constancy, which takes erythema for light where skin fills the picture."""
    dermoscopic: tuple[ViewName, ...] = (
        "identity",
        "even_light_flip_horizontal",
        "even_light_quarter_turn_left",
        "even_light_half_turn",
    )
    """Of dermoscopic images, in which no direction is up and skin borders the lesion."""

    @field_validator("clinical", "dermoscopic")
    @classmethod
    def _starts_untouched(cls, value: tuple[ViewName, ...]) -> tuple[ViewName, ...]:
        if value[:1] != ("identity",):
            raise ValueError("the first view is identity, the untouched image: put it in front")
        if len(set(value)) != len(value):
            raise ValueError("a view is listed twice: raise samples_per_view for more samples of one")
        return value


class AdaptationSettings(Settings):
    """How posteriors are corrected over a stream of images. Off by default; weights and rollouts stay as they are."""

    temperature: float = Field(default=1.0, gt=0)
    """Posteriors are raised to 1 over this; 1 is off."""
    fit: Literal["train", "val"] | None = None
    """In an evaluation: find the temperature of each task on the items of this split, which are asked by CCT first."""
    prior_shift: bool = False
    """Estimate how often each label occurs in the stream, and correct the posteriors for it."""
    training_prior: dict[str, float] | None = Field(default=None, min_length=1)
    """How frequent each diagnosis was in training, as shares or counts; null takes all for alike."""
    trained_on: AbsolutePath | None = None
    """The same from the manifest of this prepared folder."""
    min_items: int = Field(default=100, ge=1)
    """A shorter stream says too little about how often labels occur: no prior shift."""

    @model_validator(mode="after")
    def _consistent(self) -> "AdaptationSettings":
        if self.training_prior is not None and self.trained_on is not None:
            raise ValueError("training_prior and trained_on both say how frequent labels were: give one of them")
        if self.training_prior is not None and min(self.training_prior.values()) <= 0:
            raise ValueError("training_prior needs a share above 0 for every label")
        if self.fit is not None and self.temperature != 1:
            raise ValueError("fit finds the temperature: leave adaptation.temperature out")
        return self


class CCTConfig(Settings):
    """How an image is shown, and how several rollouts about it become one answer."""

    alpha: float = Field(default=1.0, ge=0)
    """Exponent of a rollout's confidence in its weight; 0 ignores confidence."""
    beta: float = Field(default=1.0, ge=0)
    """Exponent of a rollout's consistency with the others in its weight; 0 ignores consistency. With alpha 0 as well
    the result is a plain majority vote."""
    tau: float = Field(default=0.5, ge=0, le=1)
    """Abstain where the posterior of the leading answer is below this; 0 never abstains."""
    views: ViewSettings = ViewSettings()
    """The views of an image."""
    samples_per_view: int = Field(default=2, ge=1)
    """Completions for each view; views times these is the number of rollouts."""
    greedy_first: bool = True
    """The first completion of a view is its likeliest, at temperature 0; the others are samples."""
    temperature: float = Field(default=0.7, ge=0)
    """Of the samples; at 0 those of a view are all alike."""
    stop: Literal["never", "certain", "probable"] = "never"
    """`never` samples every rollout at once. `certain` ends when no further rollout can change the answer, `probable`
    when the answer leads with probability `stop_probability`; both sample in rounds, which takes longer."""
    stop_probability: float = Field(default=0.9, gt=0.5, lt=1)
    """How probable the lead must be for `probable`."""
    round_size: int = Field(default=2, ge=1)
    """Rollouts of each round after the first, which is the smallest that may settle the answer."""
    adaptation: AdaptationSettings = AdaptationSettings()
    """Correction over a stream."""
