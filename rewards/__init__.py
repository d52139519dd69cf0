"""The MAVIC reward: what a completion earns, term by term, and why."""

from rewards.concepts import Concepts
from rewards.mavic import Reward, mavic_reward

__all__ = ["Concepts", "Reward", "mavic_reward"]
