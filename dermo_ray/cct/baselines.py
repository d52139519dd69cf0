"""What CCT is to be measured against: one greedy answer, and a plain majority vote that costs as much.

Both see the untouched image alone and count each completion for its own answer; the rollouts keep their confidences for
measures of calibration.
"""

from PIL import Image

from dermo_ray.cct.inference import Inference, Prompt, Sampler, infer
from dermo_ray.cct.questions import Question, votes_only
from dermo_ray.cct.views import plan
from dermo_ray.config.cct import CCTConfig, ViewSettings
from dermo_ray.morphology import Modality

_UNTOUCHED = ViewSettings(clinical=("identity",), dermoscopic=("identity",))


async def greedy(
    sample: Sampler[Prompt],
    image: Image.Image,
    prompt: Prompt,
    config: CCTConfig,
    question: Question,
    *,
    modality: Modality,
    seed: int = 0,
) -> Inference:
    """The answer of one completion at temperature 0."""
    alone = {"views": _UNTOUCHED, "samples_per_view": 1, "temperature": 0.0, "stop": "never"}
    return await infer(
        sample, image, prompt, config.model_copy(update=alone), votes_only(question), modality=modality, seed=seed
    )


async def majority(
    sample: Sampler[Prompt],
    image: Image.Image,
    prompt: Prompt,
    config: CCTConfig,
    question: Question,
    *,
    modality: Modality,
    seed: int = 0,
) -> Inference:
    """The answer that most of as many samples give as `config` plans rollouts.

    Ties go to the greater summed confidence. Source: self-consistency (Wang et al., ICLR 2023).
    """
    rollouts = len(plan(config, modality, seed))
    plain = {"samples_per_view": rollouts, "greedy_first": False, "alpha": 0.0, "beta": 0.0, "stop": "never"}
    vote = config.model_copy(update={"views": _UNTOUCHED, **plain})
    return await infer(sample, image, prompt, vote, votes_only(question), modality=modality, seed=seed)
