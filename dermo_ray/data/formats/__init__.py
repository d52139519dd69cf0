"""From a stored sample to training records: which formats its annotations allow, and what they say.

Invariants: a sample that lacks what a format needs gives no record of that format. Supervised targets are written from
`annotation`, references of rewards from `morphology`. A record is a function of its sample, its format and the
`FormatContext` alone, never of the other samples.
"""

from dermo_ray.data.formats.context import FormatContext
from dermo_ray.data.formats.registry import trajectories
from dermo_ray.data.formats.rl import rl_prompt

__all__ = ["FormatContext", "rl_prompt", "trajectories"]
