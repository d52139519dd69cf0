"""The typed request and response of `/v1/diagnose`, and the part about CCT that chat completions carry as well."""

from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from dermo_ray.cct import VIEWS, Inference
from dermo_ray.completion import Completion, parse
from dermo_ray.config.cct import CCTConfig
from dermo_ray.morphology import DERM7PT_FIELDS, Modality, Morphology
from dermo_ray.taxonomy import Taxonomy
from serve.inference import CCTOptions, majority_of, thumbnail, usage_of

NOTICE = "Research use only: not a medical device, gives no medical advice."

_THUMBNAIL_SIDE = 160


class Reply(BaseModel):
    """A part of an answer; the docstring under a field is its description in the OpenAPI document."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class DiagnoseRequest(BaseModel):
    """An image and how to look at it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    image: str
    """A data URI of a JPEG, PNG or WebP image; an https address only where the service allows its host."""
    modality: Modality
    """A clinical photograph, or a dermoscopic image."""
    model: str | None = Field(default=None, max_length=256)
    """One of `/v1/models`; by default what is promoted. A name that ends in `+cct` has CCT on."""
    cct: bool | CCTOptions | None = None
    """Whether to ask about several views, or how; by default as the model's name says."""
    stream: bool = False
    """Answer in server-sent events: `start`, `delta`, `vote`, and `result` or `error`."""
    max_tokens: int | None = Field(default=None, ge=1, le=65_536)
    """Longest completion."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Equal requests with equal seeds are sampled alike."""
    view_images: bool = False
    """Send small pictures of the views along."""


class Candidate(Reply):
    """A diagnosis with its share of the votes' weight."""

    label: str
    probability: float


class Finding(Reply):
    """One line of the morphology."""

    name: str
    """A SkinCon feature, or a field of Derm7pt."""
    value: str | None
    """`present` for a feature; the field's value, null where it is not stated."""
    present: bool


class View(Reply):
    """A view that was shown."""

    name: str
    image: str | None
    """A small JPEG as a data URI, where `view_images` was asked for."""


class VoteReply(Reply):
    """One rollout."""

    view: str
    sample: int
    """Its number among the samples of the view, from 0."""
    answer: str | None
    """Null where the completion gives no answer, or several."""
    confidence: float | None
    """Probability of the answer's own tokens."""
    weight: float
    """Its share of the weight of all votes."""
    text: str
    """The completion."""


class CCTReply(Reply):
    """How CCT came to its answer."""

    answer: str | None
    confidence: float
    """The posterior of the answer."""
    abstain: bool
    posterior: list[Candidate]
    """In falling order; sums to 1."""
    majority: str | None
    """What a plain vote of the same rollouts would have answered."""
    planned: int
    sampled: int
    """Fewer than planned where CCT stopped early."""
    views: list[View]
    votes: list[VoteReply]


class UsageReply(Reply):
    """Tokens of all rollouts, image placeholders expanded."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class DiagnoseResponse(Reply):
    """What the policy sees, and the diagnosis that follows from it."""

    id: str
    object: Literal["diagnosis"] = "diagnosis"
    created: int
    """Seconds since 1970."""
    model: str
    """Name and checkpoint."""
    version: int
    """Learner updates that the checkpoint has seen."""
    system_fingerprint: str
    """Checkpoint and policy version, as chat completions carry them."""
    modality: Modality
    diagnosis: str | None
    """Null where no completion gives one."""
    path: list[str]
    """From the superclass to the parent of the diagnosis; empty where the taxonomy lacks it."""
    confidence: float
    """With CCT the posterior of the diagnosis, else the probability of its tokens."""
    abstain: bool
    """Whether the diagnosis should not be relied on, as far as the policy can tell."""
    posterior: list[Candidate]
    morphology: dict[str, Any] | None
    """As the released records write it."""
    findings: list[Finding]
    """The morphology as a checklist."""
    reasoning: str | None
    text: str
    """The whole completion that is shown."""
    faults: list[str]
    """What is wrong with its format."""
    cct: CCTReply | None
    usage: UsageReply
    seconds: float
    notice: str = NOTICE


def cct_reply(inference: Inference, config: CCTConfig, image: Image.Image | None) -> CCTReply:
    """What `inference` came to; with pictures of the views of `image` unless that is None."""
    result = inference.result
    names = list(dict.fromkeys(vote.draw.view for vote in inference.votes))
    return CCTReply(
        answer=result.answer if result else None,
        confidence=result.confidence if result else 0.0,
        abstain=result.abstain if result else True,
        posterior=posterior_of(inference),
        majority=majority_of(inference, config),
        planned=inference.planned,
        sampled=len(inference.votes),
        views=[
            View(name=name, image=None if image is None else thumbnail(VIEWS[name](image), _THUMBNAIL_SIDE))
            for name in names
        ],
        votes=[
            VoteReply(
                view=vote.draw.view,
                sample=vote.draw.sample,
                answer=vote.rollout.answer if vote.rollout else None,
                confidence=vote.rollout.confidence if vote.rollout else None,
                weight=vote.weight,
                text=vote.sample.text,
            )
            for vote in inference.votes
        ],
    )


def posterior_of(inference: Inference) -> list[Candidate]:
    """Every answer with its share, in falling order."""
    posterior = inference.result.posterior if inference.result else {}
    return [Candidate(label=label, probability=share) for label, share in posterior.items()]


def diagnosis_reply(
    inference: Inference,
    taxonomy: Taxonomy,
    *,
    cct: CCTReply | None,
    identity: dict[str, Any],
    modality: Modality,
    seconds: float,
) -> DiagnoseResponse:
    """The response to `/v1/diagnose`; `identity` holds what names the request and the release."""
    shown = inference.spokesman or inference.votes[0]
    completion: Completion = parse(shown.sample.text, "task3")
    diagnosis = inference.result.answer if inference.result else None
    known = diagnosis is not None and diagnosis in taxonomy.labels
    if cct is not None:
        confidence, abstain = cct.confidence, cct.abstain
    else:
        confidence, abstain = (shown.rollout.confidence, False) if shown.rollout else (0.0, True)
    return DiagnoseResponse(
        **identity,
        modality=modality,
        diagnosis=diagnosis,
        path=list(taxonomy.path(diagnosis)) if known and diagnosis else [],
        confidence=confidence,
        abstain=abstain,
        posterior=posterior_of(inference),
        morphology=completion.morphology.to_json() if completion.morphology else None,
        findings=findings_of(completion.morphology),
        reasoning=completion.reasoning,
        text=shown.sample.text,
        faults=list(completion.faults),
        cct=cct,
        usage=UsageReply(**usage_of(inference).to_json()),
        seconds=seconds,
    )


def findings_of(morphology: Morphology | None) -> list[Finding]:
    """A morphology as a checklist: every field of Derm7pt, or the SkinCon features that are stated."""
    if morphology is None:
        return []
    if morphology.schema == "skincon":
        return [Finding(name=name, value="present", present=True) for name in sorted(morphology.features)]
    stated = {name: morphology.fields.get(name) for name in DERM7PT_FIELDS}
    return [Finding(name=name, value=value, present=value not in (None, "absent")) for name, value in stated.items()]
