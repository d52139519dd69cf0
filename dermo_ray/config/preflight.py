"""Settings of `jobs.preflight`: those of another job, which it checks."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from dermo_ray.config.base import Settings, validate
from dermo_ray.config.concepts import ConceptsConfig
from dermo_ray.config.evaluate import EvaluateConfig
from dermo_ray.config.mavic import MavicConfig
from dermo_ray.config.prepare import PrepareConfig
from dermo_ray.config.serve import ServeConfig
from dermo_ray.config.sft import SftConfig
from dermo_ray.errors import UserError

JobName = Literal["prepare", "sft", "concepts", "mavic", "evaluate", "serve"]

MODELS: Mapping[JobName, type[Settings]] = {
    "prepare": PrepareConfig,
    "sft": SftConfig,
    "concepts": ConceptsConfig,
    "mavic": MavicConfig,
    "evaluate": EvaluateConfig,
    "serve": ServeConfig,
}
"""The settings of every job that can be checked."""


class PreflightConfig(Settings):
    """Settings of the job. All others are those of the job that is checked, as its own command line takes them."""

    job: JobName | None = None
    """The job that the settings are for; null tells it from their names."""
    settings: dict[str, Any] = Field(default={})
    """The settings of that job; they may also stand beside `job`, as in the job's own settings file."""

    @model_validator(mode="before")
    @classmethod
    def _settings_of_another_job(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        own = {name: value[name] for name in cls.model_fields.keys() & value.keys()}
        return own | {"settings": own.get("settings", {}) | {k: v for k, v in value.items() if k not in own}}

    def checked(self) -> tuple[JobName, Settings]:
        """The job and its settings. Raises `UserError` where they are wrong, or where it can't be told which job."""
        job = self.job or job_of(self.settings)
        return job, validate(MODELS[job], self.settings)


def job_of(settings: Mapping[str, Any]) -> JobName:
    """The job that has settings of these names, at the first level. Raises `UserError` where several have.

    Where none has them all, it is the job that has the most of them: reading them as its own then names the one that is
    mistyped.
    """
    given = settings.keys()
    known = {job: len(given & MODELS[job].model_fields.keys()) for job in get_args(JobName)}
    nearest = [job for job, count in known.items() if count == max(known.values())]
    if len(nearest) > 1:
        complete = [job for job in nearest if _required(MODELS[job]) <= given]
        nearest = complete or nearest
    if len(nearest) > 1:
        raise UserError(f"these settings could be those of {' or '.join(nearest)}: say which with job={nearest[0]}")
    return nearest[0]


def _required(model: type[Settings]) -> set[str]:
    return {name for name, field in model.model_fields.items() if field.is_required()}
