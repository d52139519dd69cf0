"""Settings of the actor pools and of the engine in a rollout worker or a serving replica."""

from pydantic import Field

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

    @property
    def on_gpu(self) -> bool:
        """Whether its actors get a GPU."""
        return self.gpus_per_worker > 0


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
