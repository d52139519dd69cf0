"""Updates that no healthy run makes: a gradient or a reward far from those of the updates just before.

Pure but for what it remembers: the last `window` updates. It judges nothing before it has seen that many.
"""

from collections import deque
from statistics import median

from dermo_ray.config.control import AnomalySettings


class Anomalies:
    """Follows a run, update by update."""

    def __init__(self, settings: AnomalySettings) -> None:
        self._settings = settings
        self._norms: deque[float] = deque(maxlen=settings.window)
        self._rewards: deque[float] = deque(maxlen=settings.window)

    def observe(self, grad_norm: float, reward: float) -> str | None:
        """What is wrong with an update, in words, by its gradient's norm before clipping and its mean reward."""
        found = self._judge(grad_norm, reward) if len(self._norms) == self._settings.window else None
        self._norms.append(grad_norm)
        self._rewards.append(reward)
        return found

    def _judge(self, grad_norm: float, reward: float) -> str | None:
        settings = self._settings
        usual, limit = median(self._norms), settings.grad_norm_factor
        if limit is not None and grad_norm > limit * usual:
            return (
                f"the gradient's norm {grad_norm:.3g} is more than {limit:g} times the median {usual:.3g} of the "
                f"{settings.window} updates before (anomaly.grad_norm_factor)"
            )
        usual, limit = median(self._rewards), settings.reward_drop
        if limit is not None and reward < usual - limit:
            return (
                f"the mean reward {reward:.3f} is more than {limit:g} below the median {usual:.3f} of the "
                f"{settings.window} updates before (anomaly.reward_drop)"
            )
        return None
