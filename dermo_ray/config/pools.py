"""Settings of the actor pools and of the engine in a rollout worker or a serving replica."""

from typing import Self

from pydantic import Field, model_validator

from dermo_ray.config.base import Settings


class PoolSettings(Settings):
    """Where the workers of one pool live."""

    workers: int = Field(default=1, ge=1)
    """How many actors."""
    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs of each actor; 0 keeps it on the CPU, a fraction shares a GPU."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """CPU cores that each actor reserves."""
    accelerator_type: str | None = None
    """Ray's name of the accelerator to insist on, such as H100."""
    node_labels: dict[str, str] = Field(default={})
    """Labels that a node must have, as `ray start --labels` gives them."""
    resources: dict[str, float] = Field(default={})
    """Resources of the cluster's own that each actor reserves, as `ray start --resources` gives them."""
    heartbeat: float = Field(default=60, gt=0)
    """Seconds within which a worker must give a sign of life, however busy it is; one that does not is replaced."""

    @property
    def placement(self) -> str:
        """What a node must have for one worker, in words."""
        amounts = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker, **self.resources}
        needs = ", ".join(f"{amount:g} {name}" for name, amount in amounts.items() if amount)
        kinds = [f"{name}={value}" for name, value in self.node_labels.items()]
        if self.accelerator_type is not None:
            kinds.insert(0, self.accelerator_type)
        return f"{needs} on a node with {', '.join(kinds)}" if kinds else needs

    @property
    def on_gpu(self) -> bool:
        """Whether its actors get a GPU."""
        return self.gpus_per_worker > 0


class AutoscaleSettings(Settings):
    """How a pool grows and shrinks by itself, with the work that there is for it."""

    min_workers: int = Field(default=1, ge=1)
    """Fewest workers."""
    max_workers: int = Field(ge=1)
    """Most workers."""
    calls_per_worker: float = Field(default=8, gt=0)
    """Calls, under way and waiting, that keep one worker busy: for more of them the pool grows."""
    idle_seconds: float = Field(default=120, ge=0)
    """The pool shrinks once fewer workers would have done for so long."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError("min_workers must not be above max_workers")
        return self


class ElasticPoolSettings(PoolSettings):
    """A pool whose workers come and go while a run goes on."""

    autoscale: AutoscaleSettings | None = None
    """Grow and shrink by itself between bounds; null leaves the size to `workers` and jobs.scale."""

    @model_validator(mode="after")
    def _starts_within_bounds(self) -> Self:
        if self.autoscale and not self.autoscale.min_workers <= self.workers <= self.autoscale.max_workers:
            raise ValueError("workers must lie within autoscale.min_workers and autoscale.max_workers")
        return self


class EngineSettings(Settings):
    """The vLLM engine of one worker."""

    max_model_len: int = Field(default=4096, ge=16)
    """Longest sequence in tokens, image tokens included."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Sequences decoded at once; small models need many to be fast."""
    max_num_batched_tokens: int = Field(default=8192, ge=16)
    """Tokens in one forward pass."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs over which one engine is cut."""
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    """Share of a GPU's memory that the engine takes."""
    cpu_kv_cache_gib: float = Field(default=0.5, gt=0)
    """Memory for keys and values where the engine runs on the CPU."""
    max_adapters: int = Field(default=2, ge=1)
    """Adapters in one batch: an update while requests are under way needs two."""
    vision_adapters: bool = False
    """Load adapters that change the vision tower too; images are then encoded anew for every policy version."""
    enforce_eager: bool = False
    """Don't compile the model: quicker to start, slower to generate. With adapters vLLM never compiles on a CPU."""
    start_timeout: float = Field(default=600, gt=0)
    """Seconds within which the engine must be ready."""
