"""Settings of experiment tracking."""

from typing import Literal

from pydantic import Field

from dermo_ray.config.base import Settings


class TrackingSettings(Settings):
    """Where a run's metrics go beside its directory; address and key are those of the service's own environment."""

    to: Literal["wandb", "mlflow"] | None = None
    """Weights & Biases or MLflow, whose package must be installed; null sends nothing anywhere."""
    project: str = Field(default="dermo-ray", min_length=1)
    """Project of Weights & Biases, experiment of MLflow; the run goes by the name of its directory."""
