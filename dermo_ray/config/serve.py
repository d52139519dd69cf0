"""Settings of the serving application."""

from pydantic import Field

from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.config.pools import EngineSettings, PoolSettings


class ServeConfig(Settings):
    """Settings of `jobs.serve`."""

    run: AbsolutePath
    """Run directory of the training run whose checkpoint answers."""
    checkpoint: str = "latest"
    """Folder below `checkpoints/`: `latest`, or one such as `step_000040`."""
    name: str = Field(default="dermo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What clients call the model; `NAME@step_000040` is the same checkpoint by its step."""
    host: str = "127.0.0.1"
    """Address to listen on; requests carry no key, so open it to other machines only inside a trusted network."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    drain_timeout: float = Field(default=60, gt=0)
    """Seconds that requests under way have to end when the service is stopped."""
    pool: PoolSettings = PoolSettings()
    """The replicas, one engine each."""
    engine: EngineSettings = EngineSettings()
    """The engine of each replica; it takes `max_num_seqs` requests at once, the rest wait their turn."""
