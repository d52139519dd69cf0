"""What a job will take, read off its settings: pools, engines, the model, what it reads and what it writes.

Settings are looked for by their type wherever they stand, so that a job's new pool is checked without a word here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dermo_ray.config.asking import EndpointSettings
from dermo_ray.config.base import Settings
from dermo_ray.config.bench import BenchSettings
from dermo_ray.config.evaluate import EvaluateConfig
from dermo_ray.config.mavic import RewardPoolSettings
from dermo_ray.config.model import ModelSettings
from dermo_ray.config.pools import EngineSettings, PoolSettings
from dermo_ray.config.preflight import JobName
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.config.reward import RewardConfig
from dermo_ray.config.serve import ServeConfig
from dermo_ray.config.teacher import TeacherSettings

T = TypeVar("T")

_WRITES: Mapping[JobName, tuple[str, ...]] = {"prepare": ("out", "cache_folder")}
_READS: Mapping[JobName, tuple[str, ...]] = {"prepare": (), "serve": ("run",), "evaluate": ("run", "data")}


@dataclass(frozen=True)
class Plan:
    """A job and its settings, from the point of view of a cluster."""

    job: JobName
    config: Settings

    @property
    def pools(self) -> dict[str, PoolSettings]:
        """Every pool of actors that the job opens, by the name of its settings."""
        left_out = getattr(self.config, "left_out", ())
        return {name: pool for name, pool in _found(self.config, PoolSettings) if name not in left_out}

    @property
    def engines(self) -> dict[str, EngineSettings]:
        """The engines, by the name of the settings that hold them; `""` for those of the job itself."""
        return {name.rpartition(".")[0]: engine for name, engine in _found(self.config, EngineSettings)}

    @property
    def model(self) -> ModelSettings | None:
        """The policy to load, where the settings name one."""
        return next((model for _, model in _found(self.config, ModelSettings)), None)

    @property
    def reward(self) -> RewardConfig | None:
        """The reward that completions are scored by."""
        return next((reward for _, reward in _found(self.config, RewardConfig)), None)

    @property
    def teacher(self) -> EndpointSettings | None:
        """The server that is to annotate, where it is asked at all."""
        found = next((teacher for _, teacher in _found(self.config, TeacherSettings)), None)
        return None if found is None or found.budget_requests == 0 else found.endpoint

    @property
    def reward_deadline(self) -> float:
        """Seconds within which a group must be scored."""
        found = next(
            (pool for pool in self.pools.values() if isinstance(pool, RewardPoolSettings)), RewardPoolSettings()
        )
        return found.timeout

    @property
    def reads(self) -> list[Path]:
        """Folders and files that every node must see."""
        named = [getattr(self.config, name, None) for name in _READS.get(self.job, ("data",))]
        sources = [source.root for source in self.config.mixture] if isinstance(self.config, PrepareConfig) else []
        model = [self.model.path] if self.model is not None else []
        reward = [self.reward.concepts, self.reward.taxonomy] if self.reward is not None else []
        if (bench := self.bench) is not None:
            named += [bench.items.release, bench.items.images, bench.items.prepared]
            for policy in bench.policies:
                named += [policy.run, policy.adapter, policy.model.path if policy.model is not None else None]
        return [path for path in (*named, *sources, *model, *reward) if path is not None]

    @property
    def writes(self) -> list[Path]:
        """Folders that every node must be able to write to."""
        if isinstance(self.config, ServeConfig):
            return [self.config.live.store or self.config.run / "served"]
        named = [getattr(self.config, name, None) for name in _WRITES.get(self.job, ("run",))]
        if self.bench is not None:
            named.append(self.bench.out)
        return [path for path in named if path is not None]

    @property
    def bench(self) -> BenchSettings | None:
        """The benchmark, where it is asked for."""
        return self.config.bench if isinstance(self.config, EvaluateConfig) else None

    @property
    def address(self) -> tuple[str, int] | None:
        """Where the job listens."""
        host, port = getattr(self.config, "host", None), getattr(self.config, "port", None)
        return (host, port) if host is not None and port is not None else None


def _found(settings: Settings, kind: type[T], prefix: str = "") -> Iterator[tuple[str, T]]:
    """Every group of settings of the type `kind`, with its dotted name."""
    for name in type(settings).model_fields:
        value: Any = getattr(settings, name)
        if isinstance(value, kind):
            yield f"{prefix}{name}", value
        if isinstance(value, Settings):
            yield from _found(value, kind, f"{prefix}{name}.")
