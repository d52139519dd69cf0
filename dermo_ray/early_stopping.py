"""The best validation so far, and when to give up waiting for a better one."""

from dataclasses import dataclass


@dataclass
class Best:
    """What a run remembers of its validations; a checkpoint holds it, so that a resumed run goes on counting."""

    version: int | None = None
    """The policy version with the best reward."""
    reward: float | None = None
    """Its mean held-out reward."""
    without_gain: int = 0
    """Validations since then."""
    last: int | None = None
    """The policy version that was validated last."""

    def observe(self, version: int, reward: float, min_gain: float) -> bool:
        """Whether `version` is the best so far: better than the last best one by more than `min_gain`."""
        self.last = version
        if self.reward is not None and reward <= self.reward + min_gain:
            self.without_gain += 1
            return False
        self.version, self.reward, self.without_gain = version, reward, 0
        return True

    def exhausted(self, patience: int | None) -> bool:
        """Whether `patience` validations in a row were no gain."""
        return patience is not None and self.without_gain >= patience
