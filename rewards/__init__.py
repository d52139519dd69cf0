"""The MAVIC reward: what a completion earns, term by term, and why."""

from rewards.concepts import Concepts
from rewards.mavic import Reward, Scorer, mavic_reward

__all__ = ["Concepts", "Reward", "Scorer", "mavic_reward"]
