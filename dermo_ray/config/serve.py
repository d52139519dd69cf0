"""Settings of the serving application."""

from typing import Literal

from pydantic import Field, model_validator

from dermo_ray.config.base import AbsolutePath, Settings
from dermo_ray.config.cct import CCTConfig
from dermo_ray.config.pools import EngineSettings, PoolSettings
from dermo_ray.config.safety import SafetySettings, require_keys
from dermo_ray.prompts import Style
from dermo_ray.records import Split

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What a model or a checkpoint may be called: `@` and `+` are left for versions and for CCT."""


class ReplicaSettings(PoolSettings):
    """The policy replicas, one engine each."""

    max_workers: int | None = Field(default=None, ge=1)
    """Replicas at most, where load decides how many there are, from `workers` up; null keeps `workers`."""
    target_ongoing_requests: float = Field(default=32, gt=0)
    """Requests under way in a replica above which another one is started, and below which one ends."""

    @model_validator(mode="after")
    def _grows(self) -> "ReplicaSettings":
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(f"max_workers ({self.max_workers}) is below workers ({self.workers})")
        return self


class GateSettings(Settings):
    """Held-out prompts that a checkpoint must answer about as well as the promoted one before it is promoted."""

    data: AbsolutePath
    """Prepared folder, as jobs.prepare writes it; prompts that ask for a diagnosis are used."""
    split: Split = "val"
    """Split to take them from."""
    sources: list[str] | None = None
    """Prompts of these data sets alone; null takes all that the folder holds."""
    prompts: int = Field(default=64, ge=1)
    """How many, the first of a fixed shuffle."""
    tolerance: float = Field(default=0.02, ge=0, le=1)
    """How far the accuracy may lie below that of the promoted checkpoint."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer."""
    timeout: float = Field(default=600, gt=0)
    """Seconds for all answers of one checkpoint."""


class LiveSettings(Settings):
    """How checkpoints that appear while the service runs are taken over."""

    follow: bool = True
    """Look for new checkpoints: those of `run`, or those below `folder`."""
    folder: AbsolutePath | None = None
    """Folder whose `step_*` checkpoints are followed in place of the run's own; it may be that of another run."""
    poll_seconds: float = Field(default=2.0, gt=0)
    """Seconds between two looks."""
    promote: Literal["automatic", "by_hand"] = "automatic"
    """`automatic` promotes a new checkpoint once every replica has loaded it and it passed the gate; `by_hand` leaves
    it a loaded candidate until somebody does."""
    canary_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the traffic to NAME that goes to a new candidate, where promotion is by hand."""
    keep_previous: int = Field(default=1, ge=1)
    """Checkpoints that stay loaded after a newer one took their place, to go back to."""
    load_timeout: float = Field(default=120, gt=0)
    """Seconds within which every replica must have loaded a checkpoint."""
    store: AbsolutePath | None = None
    """Folder for copies of what is served and for what was promoted and pinned, so that neither the end of the service
    nor that of old checkpoints loses it; null is `served/` in `run`. Every replica must see it."""
    gate: GateSettings | None = None
    """The gate; null takes every sound checkpoint."""

    @model_validator(mode="after")
    def _canaries_are_by_hand(self) -> "LiveSettings":
        if self.canary_share and self.promote == "automatic":
            raise ValueError("canary_share needs promote=by_hand: a checkpoint that is promoted at once is no canary")
        return self


class ServeConfig(Settings):
    """Settings of `jobs.serve`."""

    run: AbsolutePath
    """Run directory of the training run whose checkpoints answer."""
    checkpoint: str = "latest"
    """Folder below `checkpoints/` to begin with: one such as `step_000040`, or `latest`, which goes on with what the
    service promoted last, if it ran before."""
    name: str = Field(default="dermo", pattern=NAME_PATTERN)
    """What clients call the model; `NAME@step_000040` is one checkpoint of it, `NAME+cct` asks several times."""
    host: str = "127.0.0.1"
    """Address to listen on; any but the machine's own needs `safety.keys_file`."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    drain_timeout: float = Field(default=60, gt=0)
    """Seconds that requests under way have to end when the service is stopped."""
    max_choices: int = Field(default=16, ge=1)
    """Choices that one request may ask for (`n`)."""
    max_queued: int = Field(default=256, ge=1)
    """Requests that wait for a free replica, beyond those the engines take; more get 503 and when to try again."""
    ingresses: int = Field(default=1, ge=1)
    """Processes that receive requests, check them and hand them on; rate limits and comparisons are each one's own."""
    pool: ReplicaSettings = ReplicaSettings()
    """The policy replicas."""
    engine: EngineSettings = EngineSettings(max_adapters=4)
    """The engine of each replica."""
    prompts: Style = "full"
    """Prompts that `/v1/diagnose` asks with: those that the policy was trained on."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer of `/v1/diagnose`, and of chat completions with CCT that set no limit."""
    max_side: int | None = Field(default=1024, ge=16)
    """Longer side, in pixels, to which `/v1/diagnose` and chats with CCT scale an image down before it is shown: a
    photograph as cameras take it would not fit into `engine.max_model_len`. Where `images.max_side` was set when the
    training data were prepared, give the same; null shows images as they are."""
    cct: CCTConfig = CCTConfig()
    """CCT where a request does not say otherwise."""
    taxonomy: AbsolutePath | None = None
    """Taxonomy of diagnoses; null is the one of this package."""
    live: LiveSettings = LiveSettings()
    """Checkpoints that appear while the service runs."""
    safety: SafetySettings = SafetySettings()
    """Keys and limits."""

    @property
    def max_under_way(self) -> int:
        """Requests that an ingress takes on: twice what may wait and be answered, since some are being read."""
        return 2 * (self.max_queued + self.engine.max_num_seqs * (self.pool.max_workers or self.pool.workers))

    @model_validator(mode="after")
    def _fits_together(self) -> "ServeConfig":
        require_keys(self.host, self.safety)
        cut = self.engine.tensor_parallel_size
        if self.pool.on_gpu and cut > 1 and self.pool.gpus_per_worker != cut:
            raise ValueError(
                f"an engine cut over {cut} GPUs (engine.tensor_parallel_size) needs pool.gpus_per_worker={cut}"
            )
        if self.live.gate is not None and self.live.gate.max_tokens >= self.engine.max_model_len:
            raise ValueError("live.gate.max_tokens leaves no room for a prompt in engine.max_model_len")
        return self
