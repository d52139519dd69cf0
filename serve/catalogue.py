"""Which checkpoints a service holds, and which of them answers: a value that every change makes anew.

Invariants: exactly one checkpoint is promoted, and it is held; what is held stays loaded on every replica; a change
that is refused changes nothing. `revision` grows with every change, so that two catalogues can be told apart.
"""

import random
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from dermo_ray.errors import UserError

State = Literal["promoted", "candidate", "pinned", "previous"]

_REFUSALS_KEPT = 50


class Release(BaseModel):
    """A checkpoint that replicas can load; `adapter` is None where the base model itself was trained."""

    model_config = ConfigDict(frozen=True)

    label: str
    """`step_000040`."""
    version: int
    """Learner updates that the weights have seen."""
    adapter: Path | None = None
    """The service's own copy, which never changes."""
    checksum: str = ""
    """SHA-256 of the adapter's weights."""


class Catalogue(BaseModel):
    """The checkpoints of a service; every method that changes something returns another catalogue."""

    model_config = ConfigDict(frozen=True)

    session: str
    """Which start of the service it belongs to."""
    revision: int = 0
    releases: dict[str, Release]
    """What is held, by label."""
    promoted: str
    """The label that answers to the bare name."""
    previous: tuple[str, ...] = ()
    """Labels that were promoted before, the last one last."""
    pinned: frozenset[str] = frozenset()
    candidate: str | None = None
    canary_share: float = 0.0
    """Share of requests to the bare name that the candidate answers."""
    on_hold: bool = False
    """After a rollback: new checkpoints wait as candidates until somebody promotes one."""
    refused: dict[str, str] = {}
    """Why a checkpoint was not taken, by label, the latest last."""

    @classmethod
    def starting_with(cls, release: Release, session: str) -> "Catalogue":
        """The catalogue of a service that knows one checkpoint."""
        return cls(session=session, releases={release.label: release}, promoted=release.label)

    @property
    def newest(self) -> Release:
        """The promoted release."""
        return self.releases[self.promoted]

    def state(self, label: str) -> State:
        """What a held release is, the weightiest of its states."""
        if label == self.promoted:
            return "promoted"
        if label == self.candidate:
            return "candidate"
        return "pinned" if label in self.pinned else "previous"

    def choose(self) -> Release:
        """The release for one request to the bare name: the promoted one, or the candidate for its share of them."""
        if self.candidate is not None and random.random() < self.canary_share:
            return self.releases[self.candidate]
        return self.newest

    def take(self, release: Release, canary_share: float = 0.0) -> "Catalogue":
        """Hold a loaded release as the candidate, unless it answers already.

        Raises `UserError` where its label stands for other weights.
        """
        held = self.releases.get(release.label)
        if held is not None and held.checksum != release.checksum:
            raise UserError(f"{release.label} is held with other weights: give the checkpoint another name")
        refused = {label: reason for label, reason in self.refused.items() if label != release.label}
        answers = release.label == self.promoted
        return self._with(
            releases={**self.releases, release.label: release},
            candidate=self.candidate if answers else release.label,
            canary_share=self.canary_share if answers else canary_share,
            refused=refused,
        )

    def refuse(self, label: str, reason: str) -> "Catalogue":
        """Remember why `label` was not taken."""
        reasons = {**{name: why for name, why in self.refused.items() if name != label}, label: reason}
        return self._with(refused=dict(list(reasons.items())[-_REFUSALS_KEPT:]))

    def promote(self, label: str, keep_previous: int) -> "Catalogue":
        """Let `label` answer to the bare name; `keep_previous` of those that did stay to go back to."""
        self._require(label)
        if label == self.promoted:
            return self._with(on_hold=False)
        before = tuple(name for name in self.previous if name not in (label, self.promoted))
        candidate = None if self.candidate == label else self.candidate
        return self._with(
            promoted=label,
            previous=(*before, self.promoted)[-keep_previous:],
            candidate=candidate,
            canary_share=self.canary_share if candidate else 0.0,
            on_hold=False,
        )

    def roll_back(self) -> "Catalogue":
        """Let the release before the promoted one answer again; the bad one is dropped unless it is pinned.

        What is dropped counts as refused, so that a manager that starts anew does not take it for a new checkpoint.
        """
        if not self.previous:
            raise UserError("there is nothing to roll back to: no other checkpoint has been promoted, or none is kept")
        *earlier, back = self.previous
        bad = self.promoted
        changed = self._with(promoted=back, previous=tuple(earlier), candidate=None, canary_share=0.0, on_hold=True)
        if bad in self.pinned:
            return changed
        return changed.refuse(bad, f"rolled back to {back}: push it to have it again")

    def pin(self, label: str) -> "Catalogue":
        """Keep `label` loaded until it is unpinned."""
        self._require(label)
        return self._with(pinned=self.pinned | {label})

    def unpin(self, label: str) -> "Catalogue":
        """Let `label` go with the others."""
        if label not in self.pinned:
            raise UserError(f"{label} is not pinned; pinned: {', '.join(sorted(self.pinned)) or 'none'}")
        return self._with(pinned=self.pinned - {label})

    def canary(self, label: str, share: float) -> "Catalogue":
        """Let `label` answer `share` of the requests to the bare name; 0 ends that and keeps it as a candidate."""
        self._require(label)
        if label == self.promoted:
            raise UserError(f"{label} answers already: a canary is another checkpoint")
        if not 0 <= share <= 1:
            raise UserError(f"a share lies between 0 and 1, not {share:g}")
        return self._with(candidate=label, canary_share=share)

    def _require(self, label: str) -> None:
        if label not in self.releases:
            raise UserError(f"{label!r} is not held here; held: {', '.join(sorted(self.releases))}")

    def _with(self, **changes: object) -> "Catalogue":
        changed = self.model_copy(update={**changes, "revision": self.revision + 1})
        kept = {changed.promoted, changed.candidate, *changed.previous, *changed.pinned}
        releases = {label: release for label, release in changed.releases.items() if label in kept}
        return changed.model_copy(update={"releases": releases})
