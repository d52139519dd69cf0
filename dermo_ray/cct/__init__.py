"""Confidence-consistency test-time inference (CCT): several rollouts about one image become one answer.

The formulas are ours; those of the DermoGPT paper are not public. Everything here is a pure function or takes the
sampler it is given: no engine, no Ray.
"""

from dermo_ray.cct.adaptation import AdaptedStream, adapt, fit_temperature
from dermo_ray.cct.aggregation import CCTResult, aggregate, weigh
from dermo_ray.cct.baselines import greedy, majority
from dermo_ray.cct.confidence import decode_tokens
from dermo_ray.cct.consistency import by_taxonomy, exact
from dermo_ray.cct.inference import Inference, Sampler, Vote, infer
from dermo_ray.cct.questions import Question, choice, diagnosis, lettered_choice
from dermo_ray.cct.rollout import Rollout, Sample
from dermo_ray.cct.views import VIEWS, Draw, plan

__all__ = [
    "VIEWS",
    "AdaptedStream",
    "CCTResult",
    "Draw",
    "Inference",
    "Question",
    "Rollout",
    "Sample",
    "Sampler",
    "Vote",
    "adapt",
    "aggregate",
    "by_taxonomy",
    "choice",
    "decode_tokens",
    "diagnosis",
    "exact",
    "fit_temperature",
    "greedy",
    "infer",
    "lettered_choice",
    "majority",
    "plan",
    "weigh",
]
